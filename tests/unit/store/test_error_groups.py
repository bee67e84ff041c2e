"""What failed, grouped by cause, for people and for programs."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import error_groups, lance_io
from store.__main__ import main
from store.schemas import ERRORS
from utils.errors import StoreError

START = datetime(2026, 7, 1, 12, tzinfo=UTC)


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "error_id": f"error-{number:03d}",
        "node": "vhr_reads",
        "error_type": "RasterReadError",
        "traceback_hash": "aaaa",
        "message": f"tile {number} is truncated",
        "partition": 0x47A1 + number,
        "uuid": f"chip-{number:03d}",
        "input_ids": [f"scene-{number}"],
        "input_set": None,
        "attempt": 1,
        "run_id": "run-1",
        "build_config": "config",
        "occurred_at": START + timedelta(minutes=number),
        **changes,
    }


def store_of(uri: Path, *rows: dict[str, Any]) -> Path:
    lance_io.write(uri, "errors", pa.Table.from_pylist(list(rows), schema=ERRORS))
    return uri


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = {"node": "msi_reads", "error_type": "RasterUnreachableError", "traceback_hash": "bbbb"}
    lost = {"node": "run_partition", "error_type": "WorkerLostError", "traceback_hash": "", "uuid": None}
    label = {"node": "label_failures", "error_type": "GeometryError", "traceback_hash": "", "uuid": None}
    return store_of(
        tmp_path_factory.mktemp("store"),
        *(row(number) for number in range(5)),
        row(5, traceback_hash="other"),
        row(6, **network, attempt=3, run_id="run-2", message="503 from [bold]tiles.example[/bold]"),
        row(7, **network, partition=0x47A1),
        row(8, **lost, input_ids=[]),
        row(9, **label, partition=None, input_ids=["pv/17"]),
    )


def test_one_group_per_node_class_and_traceback(store: Path) -> None:
    found = error_groups.error_groups(store)
    assert [(g.node, g.error_type, g.traceback_hash, g.failures) for g in found] == [
        ("vhr_reads", "RasterReadError", "aaaa", 5),
        ("msi_reads", "RasterUnreachableError", "bbbb", 2),
        ("label_failures", "GeometryError", "", 1),
        ("run_partition", "WorkerLostError", "", 1),
        ("vhr_reads", "RasterReadError", "other", 1),
    ]
    first, network, label, lost, _ = found
    assert (first.chips, first.partitions, first.attempts, first.passes) == (5, 5, 1, False)
    assert (first.message, first.latest) == ("tile 4 is truncated", START + timedelta(minutes=4))
    assert first.examples == ("chip-000", "chip-001", "chip-002")
    assert (network.attempts, network.passes, network.partitions) == (3, True, 2)
    assert (label.chips, label.partitions, label.examples) == (0, 0, ("pv/17",))
    assert (lost.chips, lost.examples) == (0, (f"{0x47A1 + 8:x}",))


def test_only_one_run_or_node(store: Path) -> None:
    assert [g.failures for g in error_groups.error_groups(store, run_id="run-2")] == [1]
    assert [g.failures for g in error_groups.error_groups(store, node="vhr_reads")] == [5, 1]
    assert error_groups.error_groups(store, run_id="run-2", node="vhr_reads") == []
    assert error_groups.error_groups(store, run_id="' OR true --") == []


def test_no_store_and_a_store_without_errors(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="python -m dataflows run build"):
        error_groups.error_groups(tmp_path / "none")
    lance_io.write(tmp_path, "errors", ERRORS.empty_table())
    assert error_groups.error_groups(tmp_path) == []


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(0, 3)), max_size=30))
def test_groups_hold_every_failure_once(causes: list[tuple[str, str, int]]) -> None:
    table = pa.Table.from_pylist(
        [
            row(number, node=node, error_type=kind, uuid=f"chip-{chip}")
            for number, (node, kind, chip) in enumerate(causes)
        ],
        schema=ERRORS,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lance_io, "scan", lambda *_: table)
        patch.setattr(lance_io, "table_names", lambda _: ["errors"])
        found = error_groups.error_groups("store")
    assert sum(group.failures for group in found) == len(causes)
    assert {(group.node, group.error_type) for group in found} == {cause[:2] for cause in causes}
    for group in found:
        chips = {cause[2] for cause in causes if cause[:2] == (group.node, group.error_type)}
        assert group.chips == len(chips)
        assert len(group.examples) == min(3, len(chips))
    assert [group.failures for group in found] == sorted((group.failures for group in found), reverse=True)


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["errors", *argv]) == 0
    return capsys.readouterr().out


def test_json_holds_every_field(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(shown(capsys, "--store", str(store), "--json"))
    assert len(found) == 5
    assert found[1] == {
        "node": "msi_reads",
        "error_type": "RasterUnreachableError",
        "traceback_hash": "bbbb",
        "failures": 2,
        "chips": 2,
        "partitions": 2,
        "attempts": 3,
        "passes": True,
        "latest": (START + timedelta(minutes=7)).isoformat(),
        "message": "tile 7 is truncated",
        "examples": ["chip-006", "chip-007"],
    }
    assert json.loads(shown(capsys, "--store", str(store), "--run", "nobody", "--json")) == []


def test_text_for_people(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--store", str(store))
    assert "RasterUnreachableError (may pass)" in text
    assert "tile 4 is truncated" in text
    assert "pv/17" in text
    assert f"{0x47A1 + 8:x}" in text
    assert "python -m dataflows run --retry-errors" in text
    assert text.index("RasterReadError") < text.index("WorkerLostError")
    network = shown(capsys, "--store", str(store), "--run", "run-2")
    assert "[bold]tiles.example[/bold]" in network
    assert "nothing failed" in shown(capsys, "--store", str(store), "--node", "nobody")


def test_no_store_is_told_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["errors", "--store", str(tmp_path / "none")]) == 2
    assert "python -m dataflows run build" in capsys.readouterr().err
