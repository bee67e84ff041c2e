"""A run at work: its lease kept up, its failure recorded, what it made stored where it is interrupted."""

from collections.abc import Callable
from contextlib import suppress

from dataflows.config import BuildConfig
from dataflows.run_summary import FlowSummary
from dataflows.work_shares import kept_up, run_lease_id
from store import leases
from store.leases import Holder
from store.lineage import Run
from utils.errors import AegirError, StoreError
from utils.failures import interrupted


def guarded(
    config: BuildConfig,
    run: Run,
    holder: Holder,
    summary: FlowSummary,
    *,
    work: Callable[[], None],
    finish: Callable[[], None] = lambda: None,
) -> None:
    """Do a run's work and finish it, its lease kept up meanwhile and given back at the end.

    An interrupt ends the work: what is done is finished, and the summary's status is ``interrupted``. How the run ended
    is for the caller to settle; a failure alone is recorded here, and passed on.

    Args:
        config: settings of the build, with the store.
        run: the run, recorded as running.
        holder: who holds its lease.
        summary: what the run did so far; its counts go into the record of a failure.
        work: makes what is pending.
        finish: commits what waits; called once more after an interrupt.
    """

    def alive() -> None:
        with suppress(StoreError):
            leases.claim(config.store, holder, [run_lease_id(run.run_id)])

    try:
        with kept_up(alive, config.lease_s):
            work()
            finish()
    except BaseException as error:
        if not interrupted(error):
            summary.status = "failed"
            # what cannot be stored ends the run; the record of it may fail for the same reason
            with suppress(AegirError):
                run.record(config.store, "failed", summary.counts())
            raise
        summary.status = "interrupted"
        # what cannot be committed any more is made again by the next run
        with suppress(AegirError):
            finish()
    finally:
        with suppress(AegirError):
            leases.release(config.store, holder)
