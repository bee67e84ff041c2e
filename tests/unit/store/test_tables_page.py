"""docs/tables.md says what the schemas say."""

from pathlib import Path

import pyarrow as pa
import pytest

from store.__main__ import main
from store.schemas import TABLES
from store.tables_page import render, type_text

PAGE = Path(__file__).parents[3] / "docs" / "tables.md"


def test_committed_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run `python -m store docs --write docs/tables.md`"


def test_every_column_has_one_line() -> None:
    lines = render().splitlines()
    for name, schema in TABLES.items():
        assert f"## {name}" in lines
        start = lines.index(f"## {name}")
        body = lines[start : start + len(schema) + 8]
        for field in schema:
            assert sum(line.startswith(f"| `{field.name}` |") for line in body) == 1
    table_lines = [line for line in lines if line.startswith("| `")]
    assert {line.replace("\\|", "").count("|") for line in table_lines} == {8}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (pa.fixed_shape_tensor(pa.uint8(), [3, 4, 5]), "tensor uint8 3×4×5"),
        (pa.timestamp("us", tz="UTC"), "timestamp µs UTC"),
        (pa.timestamp("ms"), "timestamp ms"),
        (pa.map_(pa.string(), pa.float32()), "map<string, float32>"),
        (pa.list_(pa.float64(), 6), "float64[6]"),
        (pa.list_(pa.string()), "list<string>"),
        (pa.large_binary(), "large_binary"),
    ],
)
def test_types_have_short_names(kind: pa.DataType, text: str) -> None:
    assert type_text(kind) == text


def test_command_prints_or_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs"]) == 0
    assert capsys.readouterr().out == render()
    target = tmp_path / "new" / "tables.md"
    assert main(["docs", "--write", str(target)]) == 0
    assert target.read_text(encoding="utf-8") == render()


def test_a_place_that_cannot_be_written_is_a_typed_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["docs", "--write", str(tmp_path / "file" / "tables.md")]) == 2
    assert capsys.readouterr().err.startswith("StoreNotWritableError")
