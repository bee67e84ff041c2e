"""What a run says of others."""

import os
from pathlib import Path
from typing import Any

import pytest

from dataflows import partition_loop
from dataflows.work_shares import run_lease_id
from store import lance_io, leases
from store.leases import Holder
from store.lineage import Run


def run(run_id: str) -> Run:
    return Run(flow="build", run_id=run_id, build_config="c", config={}, recipes={}, code={}, inputs={})


def statuses(uri: Path) -> dict[str, str]:
    return {row["run_id"]: row["status"] for row in lance_io.scan(uri, "runs", ["run_id", "status"]).to_pylist()}


def test_a_run_that_ends_while_it_is_looked_at_was_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = Holder(run_id="ends", lease_s=60.0, pid=os.getpid())
    leases.claim(tmp_path, alive, [run_lease_id("ends")])
    for run_id in ("ends", "dead"):
        run(run_id).record(tmp_path, "running")
    look = leases.living

    def living(*arguments: Any) -> set[str]:
        run("ends").record(tmp_path, "done")
        leases.release(tmp_path, alive)
        return look(*arguments)

    monkeypatch.setattr(leases, "living", living)
    partition_loop._tidy_after_kills(str(tmp_path))
    assert statuses(tmp_path) == {"ends": "done", "dead": "killed"}
