"""What a run of validation did."""

from dataclasses import dataclass, field

from dataflows.run_summary import FlowSummary


@dataclass(kw_only=True)
class ValidationSummary(FlowSummary):
    """What a run of validation did."""

    flow: str = "validate"
    """Flow that ran."""
    search_id: str = ""
    """The search whose detections were judged."""
    detections: int = 0
    """Detections of the search."""
    skipped: int = 0
    """Judged before by the same code, settings and evidence."""
    measured: int = 0
    """Detections whose evidence was made in this run."""
    judged: int = 0
    """Detections that got a verdict in this run."""
    failed: int = 0
    """Detections without a verdict, because their imagery could not be read."""
    evidence_written: int = 0
    """Rows of ``evidence`` written."""
    asked_masks: int = 0
    """Detections the mask factory was asked about."""
    verdicts: dict[str, int] = field(default_factory=dict)
    """Verdict → detections of the search that have it."""
    model: str | None = None
    """Version of the verdict model; None where rules alone judge."""
    model_path: str | None = None
    """File of the model."""
    model_note: str = ""
    """What it was fitted on and how good it is, or why there is none."""

    @property
    def is_complete(self) -> bool:
        """Whether every detection has its verdict."""
        return self.status == "done" and not self.failed
