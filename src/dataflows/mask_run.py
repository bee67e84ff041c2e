"""What runs that make masks share: rows on their way to the store, where they come from, counts of what was made."""

from datetime import datetime

from dataflows.backfill_summary import BackfillSummary
from dataflows.config import BuildConfig
from dataflows.lance_writer import Provenance
from dataflows.memory import waiting_bytes
from dataflows.partition_task import PartitionOutcome
from dataflows.run_summary import GenerationSummary
from store.commit_buffer import CommitBuffer
from store.lineage import Run


def row_buffer(config: BuildConfig, run: Run, planned_at: datetime) -> CommitBuffer:
    """Buffer of a run that makes chips and masks from what the store held at ``planned_at``."""
    return CommitBuffer(
        config.store,
        config.profile,
        run_id=run.run_id,
        build_config=config.build_config,
        commit_every=config.commit_every,
        most_bytes=waiting_bytes(config),
        planned_at=planned_at,
    )


def mask_provenance(config: BuildConfig, run: Run, generation: int) -> Provenance:
    """What rows of a generation of masks say about how they came about."""
    return Provenance(
        run_id=run.run_id,
        build_config=config.build_config,
        recipes=dict(run.recipes),
        mask_backend=config.mask_backend,
        label_catalog=config.catalog,
        label_snapshot=None,
        margin_share=config.margin_share,
        generation=generation,
    )


def count_outcome(summary: GenerationSummary | BackfillSummary, outcome: PartitionOutcome) -> None:
    """Add to a summary what one task made."""
    made = outcome.counts.get("chips", 0)
    summary.retried += outcome.retried
    summary.chips_made += made
    summary.chips_failed += outcome.chips - made if outcome.failed else outcome.counts["failed"]
    summary.partitions_failed += outcome.failed
    for verdict in summary.masks:
        summary.masks[verdict] += outcome.counts.get(verdict, 0)
