"""What a backfill did, in numbers."""

from dataclasses import dataclass, field

from dataflows.run_summary import FlowSummary


@dataclass(kw_only=True)
class BackfillSummary(FlowSummary):
    """What a backfill did. Figures of the generation are those of the store: a second run tells the same."""

    flow: str = "backfill"
    search_id: str | None = None
    """Search whose detections were taken; None where the store holds none."""
    generation: int | None = None
    """Generation of masks; None where no detection leads to any."""
    mask_recipe: str = ""
    """Recipe of its masks: code, settings, and the detections with their verdicts."""
    accepted: int = 0
    """Accepted detections of the search."""
    rejected: int = 0
    """Rejected ones."""
    undecided: int = 0
    """The others: they await review, or cannot be verified."""
    held_out: int = 0
    """Accepted and rejected detections on no chip that may learn: test ground, guard, no imagery of their day."""
    chips: int = 0
    """Chips of the generation."""
    chips_pending: int = 0
    """Chips this run set out to make."""
    chips_made: int = 0
    """Chips made in this run."""
    chips_failed: int = 0
    """Chips that failed in this run."""
    inputs_failed: int = 0
    """Detections and scenes that could not be used."""
    new_chips: int = 0
    """Chips of the generation that had no mask before: made for it, or left without mask by an earlier one."""
    added: int = 0
    """Detections that are prompts on a chip for the first time, once per chip."""
    replaced: int = 0
    """Masks of labels and earlier detections that give way to one of this generation."""
    hard_negatives: int = 0
    """Chips with rejected detections, taught as background."""
    label_drift: float | None = None
    """1 - IoU of PV between the masks that chips have and those of the generation; null where neither holds PV."""
    masks: dict[str, int] = field(default_factory=lambda: {"accept": 0, "review": 0, "reject": 0, "not_in_chip": 0})
    """Masks made in this run, per verdict."""
    bytes_written: int = 0
    """Size of the files that tables gained in this run."""

    @property
    def is_complete(self) -> bool:
        """Whether all that was asked for is there."""
        return not (self.chips_failed or self.inputs_failed)
