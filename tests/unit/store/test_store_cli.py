"""`python -m store`: what it prints, what it refuses, and what it never imports."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from store import lance_io, listing
from store.__main__ import main
from store.schemas import TABLES
from support.store_rows import HIGH, SMALL, rows_for
from utils.errors import SchemaError, StoreError, TableNotFoundError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    uri = tmp_path_factory.mktemp("store")
    for table in ("training_data", "splits", "runs"):
        lance_io.write(uri, table, rows_for(table), profile=SMALL)
    lance_io.write(uri, "splits", rows_for("splits", 2, first=3))
    lance_io.open_table(uri, "splits").tags.create("first", 2)
    return uri


def answer(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_tables_as_json(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {entry["table"]: entry for entry in answer(capsys, "tables", "--store", str(store))}
    assert list(found) == ["runs", "splits", "training_data"]
    assert found["splits"]["rows"] == 5
    assert found["splits"]["version"] == 3
    assert found["splits"]["profile"] is None
    assert found["training_data"]["columns"] == len(TABLES["training_data"])
    assert found["training_data"]["profile"] == "8×6 px at 0.3 m, MSI 4 bands 5×4 px at 10 m"
    assert {entry["storage_version"] for entry in found.values()} == {"2.2"}
    folder = store / "splits.lance"
    assert found["splits"]["bytes_on_disk"] == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_tables_for_people(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--store", str(store)]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("training_data", "splits", "2.2", "8×6 px"))


def test_tables_say_where_upkeep_is_due(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.maintenance.DUE_FRAGMENTS", 1)
    assert main(["tables", "--store", str(store)]) == 0
    assert f"python -m store optimize --store {store} splits" in capsys.readouterr().out.splitlines()[-1]


def test_store_comes_from_the_environment(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGIR_STORE", str(store))
    assert [entry["table"] for entry in answer(capsys, "tables")] == ["runs", "splits", "training_data"]


def test_default_store_is_under_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AEGIR_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    lance_io.write(tmp_path / "data" / "lancedb", "runs", rows_for("runs", 1))
    assert [entry["table"] for entry in answer(capsys, "tables")] == ["runs"]


def test_an_empty_store_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "tables", "--store", str(tmp_path)) == []


def test_show_tells_pixels_by_shape_and_bytes_by_size(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row, other, _ = answer(capsys, "show", "training_data", "--store", str(store))
    assert list(row) == TABLES["training_data"].names
    assert row["vhr_image_chip"] == "tensor uint8 3×8×6"
    assert row["msi_image_chip"] == "tensor uint16 4×5×4"
    assert row["generated_mask"] == "48 bytes"
    assert row["msi_mask"] == "20 bytes"
    assert row["footprint"].startswith("POLYGON ((8.5 47")
    assert row["vhr_acquired_at"] == "2026-07-01T10:30:00+00:00"
    assert row["s2_cell"] == HIGH
    assert other["generated_mask"] is None


def test_show_columns_filter_limit_and_version(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("show", "splits", "--store", str(store))
    rows = answer(capsys, *base, "--columns", "salt, split_rule", "--where", "salt >= 1", "--limit", "2")
    assert [list(row) for row in rows] == [["salt", "split_rule"]] * 2
    assert all(row["salt"] >= 1 for row in rows)
    assert len(answer(capsys, *base, "--limit", "99")) == 5
    assert len(answer(capsys, *base, "--version", "first")) == 3
    assert len(answer(capsys, *base, "--version", "2")) == 3
    assert answer(capsys, *base, "--where", "salt > 99") == []
    assert answer(capsys, *base, "--limit", "1")[0]["fractions"] == {"train": 0.0, "test": 1.0}


def test_show_only_tensors_reads_none_of_them(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = answer(capsys, "show", "training_data", "--store", str(store), "--columns", "vhr_image_chip,msi_scl")
    assert rows == [{"vhr_image_chip": "tensor uint8 3×8×6", "msi_scl": "tensor uint8 5×4"}] * 3


@pytest.mark.parametrize("columns", [[], ["--columns", "uuid,split,flags_of,prompt_geometry"]])
def test_show_for_people(store: Path, capsys: pytest.CaptureFixture[str], columns: list[str]) -> None:
    wanted = [part.replace("flags_of", "quality_flags") for part in columns]
    assert main(["show", "training_data", "--store", str(store), *wanted]) == 0
    out = capsys.readouterr().out
    assert all(f"key-{k}" in out for k in range(3))
    assert "POLYGON ((8.5 47" in out
    assert ("row 3 of 3" in out) == (not columns)


def test_show_says_when_nothing_matches(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "splits", "--store", str(store), "--where", "salt = 99"]) == 0
    assert capsys.readouterr().out.strip() == "no rows"


def test_values_that_json_lacks_are_told_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_for("splits", 1)
    field = rows.schema.field("guard_m")
    rows = rows.set_column(rows.schema.names.index("guard_m"), field, pa.array([np.nan]))
    lance_io.write(tmp_path, "splits", rows)
    assert answer(capsys, "show", "splits", "--store", str(tmp_path))[0]["guard_m"] == "nan"


def test_square_brackets_in_text_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_for("errors", 1)
    index = rows.schema.names.index("message")
    rows = rows.set_column(index, rows.schema.field("message"), pa.array(["band [red] is missing"]))
    lance_io.write(tmp_path, "errors", rows)
    assert main(["show", "errors", "--store", str(tmp_path), "--columns", "message"]) == 0
    assert "band [red] is missing" in capsys.readouterr().out


def test_versions(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "versions", "splits", "--store", str(store))
    assert [(entry["version"], entry["rows"], entry["tags"]) for entry in found] == [
        (3, 5, []),
        (2, 3, ["first"]),
        (1, 0, []),
    ]
    newest = datetime.fromisoformat(found[0]["written_at"])
    assert newest.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - newest) < timedelta(hours=1)
    assert [
        entry["version"] for entry in answer(capsys, "versions", "splits", "--store", str(store), "--limit", "1")
    ] == [3]
    assert main(["versions", "splits", "--store", str(store)]) == 0
    assert "first" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["show", "nope"], "TableNotFoundError: no table 'nope'"),
        (["versions", "nope"], "TableNotFoundError: no table 'nope'"),
        (["show", "splits", "--version", "77"], "TableNotFoundError: no version 77"),
        (["show", "splits", "--version", "later"], "TableNotFoundError: no version 'later'"),
        (["show", "splits", "--columns", "salt,pepper"], "SchemaError: table 'splits' has no column pepper; it has: "),
        (["show", "splits", "--where", "salt = = 1"], "StoreError: the filter 'salt = = 1' is refused"),
        (["show", "splits", "--where", "pepper = 1"], "StoreError: the filter 'pepper = 1' is refused"),
    ],
)
def test_bad_requests_end_with_two_and_a_typed_message(
    store: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert main([*argv, "--store", str(store)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(message)
    assert ".rs:" not in shown.err
    assert not shown.out


def test_no_store_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--store", str(tmp_path / "none")]) == 2
    assert "python -m dataflows run build" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["show"], ["show", "splits", "--limit", "0"], ["sing"]])
def test_misuse_is_argparses_business(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2


def test_listing_raises_typed_errors(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        listing.tables(tmp_path / "none")
    with pytest.raises(TableNotFoundError):
        listing.versions(store, "nope")
    with pytest.raises(SchemaError):
        listing.rows(store, "splits", columns=["pepper"])


def test_a_foreign_table_can_be_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lance.write_dataset(pa.table({"n": [1, 2], "raw": [b"ab", b"c"]}), str(tmp_path / "other.lance"))
    assert answer(capsys, "tables", "--store", str(tmp_path))[0]["profile"] is None
    rows = answer(capsys, "show", "other", "--store", str(tmp_path))
    assert rows == [{"n": 1, "raw": "2 bytes"}, {"n": 2, "raw": "1 bytes"}]


def test_no_heavy_import(store: Path) -> None:
    code = (
        "import sys; from store.__main__ import main\n"
        "for argv in ('tables', 'show training_data', 'versions splits', 'docs'): assert main(argv.split()) == 0\n"
        "print('IMPORTED', sorted({'torch', 'lightning', 'hamilton', 'rasterio', 'datasets'} & set(sys.modules)))"
    )
    environment = {**os.environ, "AEGIR_STORE": str(store)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "IMPORTED []"
