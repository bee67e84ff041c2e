"""Judge the detections of a search: measure what is missing, cell by cell, then decide over all of them at once."""

import time
from collections.abc import Mapping, Sequence

import pyarrow as pa

from dataflows._evidence_rows import rows_of
from dataflows._validation_verdicts import decide
from dataflows._validation_work import FLOW, Progress, ValidationWork, prepared
from dataflows.discovery_config import DiscoveryConfig
from dataflows.guarded_run import guarded
from dataflows.validation_evidence import RULES
from dataflows.validation_summary import ValidationSummary
from dataflows.work_shares import run_lease_id
from store import evidence, leases
from store.leases import Holder
from store.mask_runs import mark_killed
from utils.evidence import Finding

__all__ = ["ValidationSummary", "run_validation"]

_COMMIT_ROWS = 8000


def run_validation(
    config: DiscoveryConfig, *, search_id: str | None = None, progress: Progress | None = None
) -> ValidationSummary:
    """Judge the detections of a search that today's code and settings have not judged.

    Evidence is committed every few cells, so that a run that was killed goes on where it stopped. A detection whose
    imagery cannot be read becomes a row in ``errors`` and keeps no verdict.

    Args:
        config: settings.
        search_id: the search; None is the newest.
        progress: called with the summary whenever it changes.

    Raises:
        SearchError: there is no detection to judge.
        AegirError: the settings, the imagery, the labels or the store cannot be used; nothing was started.
    """
    start, report = time.monotonic(), progress or (lambda _: None)
    work = prepared(config, search_id or evidence.newest_search(config.store), report)
    summary, holder = work.summary, Holder(run_id=work.run.run_id, lease_s=config.build.lease_s)
    report(summary)
    mark_killed(work.store, FLOW, run_lease_id)
    leases.claim(work.store, holder, [run_lease_id(work.run.run_id)])
    work.run.record(work.store, "running")

    def judge() -> None:
        _measure(work)
        decide(work)
        summary.status = "failed" if summary.failed else "done"

    guarded(config.build, work.run, holder, summary, work=judge)
    summary.seconds = time.monotonic() - start
    work.run.settle(work.store, summary.status, summary.counts())
    report(summary)
    return summary


def _measure(work: ValidationWork) -> None:
    """Evidence of the detections that have none of today's, committed every few cells."""
    known = evidence.evidence_recipes(work.store, work.ids)
    missing = [one for one in work.ids if any(known.get((one, rule)) != work.inputs[one] for rule in RULES)]
    work.summary.skipped = len(work.ids) - len(missing)
    batches, waiting = work.cells(missing), list[pa.Table]()
    work.summary.partitions = len(batches)
    for batch in batches:
        found = work.driver.execute(
            ["detection_findings", "imagery_failures"], inputs={**work.shared, "detections": batch}
        )
        waiting.append(_rows(work, found["detection_findings"]))
        work.buffer.fail(found["imagery_failures"])
        work.summary.measured += len(found["detection_findings"])
        work.summary.failed += len(found["imagery_failures"])
        work.summary.partitions_done += 1
        if sum(map(len, waiting)) >= _COMMIT_ROWS:
            _commit(work, waiting)
            waiting = []
        work.report(work.summary)
    _commit(work, waiting)


def _rows(work: ValidationWork, findings: Mapping[str, Sequence[Finding]]) -> pa.Table:
    parts = [rows_of({one: list(several)}, work.inputs[one], work.run.run_id) for one, several in findings.items()]
    return pa.concat_tables([rows_of({}, "", ""), *parts])


def _commit(work: ValidationWork, waiting: Sequence[pa.Table]) -> None:
    work.buffer.flush()
    if waiting:
        receipt = evidence.write_evidence(work.store, pa.concat_tables(waiting))
        work.summary.evidence_written += receipt.inserted + receipt.updated
