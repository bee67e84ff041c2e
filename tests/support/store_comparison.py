"""Whether two stores hold the same, whether one is whole in itself, and whether every engine opens it."""

from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import lancedb
import pyarrow as pa
import pyarrow.compute as pc
from duckdb_extensions import import_extension

from store import lance_io, listing
from store.schemas import primary_key
from utils.errors import AegirError, TableNotFoundError

NOT_COMPARED = {
    "run_id": "another run made the row",
    "created_at": "a time",
    "recorded_at": "a time",
    "occurred_at": "a time",
    "attempt": "a killed run that had told of a failure counts as one that met it",
}
"""Column → why it may differ between stores that hold the same."""
ONLY_WHETHER_NULL = {"retired_at": "a time"}
"""Columns of which only nulls are compared → why."""
NOT_COMPARED_TABLES = {
    "runs": "every start of the command line is a run",
    "leases": "who works on what at the moment",
}
"""Table → why."""


def tables_of(uri: str | Path) -> list[str]:
    """Tables of a local store that have a version, sorted."""
    names = sorted(folder.stem for folder in Path(uri).glob("*.lance"))
    return [name for name in names if lance_io.table_exists(uri, name)]


def listing_fails(uri: str | Path) -> list[str]:
    """Why the store's tables cannot be listed, as ``python -m store tables`` lists them."""
    if not tables_of(uri):
        return []
    try:
        listed = [info.table for info in listing.tables(uri)]
    except AegirError as error:
        return [f"the store's tables cannot be listed: {error}"]
    return [] if listed == tables_of(uri) else [f"listed are {listed}, there are {tables_of(uri)}"]


def rows_of(uri: str | Path, table: str) -> pa.Table:
    """All rows in the order of their keys, tensors as lists of numbers; empty when the table is not there."""
    if not lance_io.table_exists(uri, table):
        return pa.table({"key": pa.array([], pa.string())})
    data = lance_io.open_table(uri, table).to_table()
    key = primary_key(data.schema)
    for number, name in enumerate(data.column_names):
        column = data[name]
        if isinstance(column.type, pa.FixedShapeTensorType):
            storage = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
            data = data.set_column(number, name, storage)
    return data.take(pc.sort_indices(data[key]))


def differences(uri: str | Path, reference: str | Path) -> list[str]:
    """What the store at ``uri`` has otherwise than the one at ``reference``: tables, keys, values; byte for byte."""
    tables = [name for name in tables_of(reference) if name not in NOT_COMPARED_TABLES]
    missing = sorted(set(tables) - set(tables_of(uri)))
    found = [f"table {name} is missing" for name in missing]
    for name in tables_of(uri):
        if name not in NOT_COMPARED_TABLES:
            found += _table_differences(name, rows_of(uri, name), rows_of(reference, name))
    return found


def _table_differences(name: str, rows: pa.Table, wanted: pa.Table) -> list[str]:
    if not len(rows) and not len(wanted):
        return []
    key = rows.column_names[0] if len(rows) else wanted.column_names[0]
    keys = [data[key].to_pylist() if key in data.column_names else [] for data in (rows, wanted)]
    if keys[0] != keys[1]:
        counts = [Counter(names) for names in keys]
        more, fewer = counts[0] - counts[1], counts[1] - counts[0]
        return [f"{name}: {more.total()} rows too many {sorted(more)[:3]}, {fewer.total()} missing {sorted(fewer)[:3]}"]
    found = []
    for column in wanted.column_names:
        if column in NOT_COMPARED:
            continue
        both = [data[column].combine_chunks() for data in (rows, wanted)]
        if column in ONLY_WHETHER_NULL:
            both = [values.is_null() for values in both]
        if not both[0].equals(both[1]):
            wrong = [k for k, (a, b) in enumerate(zip(*(v.to_pylist() for v in both), strict=True)) if not _same(a, b)]
            if wrong:
                found.append(f"{name}.{column}: {len(wrong)} of {len(wanted)} differ, such as {keys[0][wrong[0]]}")
    return found


def _same(a: Any, b: Any) -> bool:
    return bool(a == b or (a != a and b != b))  # noqa: PLR0124 - NaN equals NaN here


def duplicates(uri: str | Path) -> list[str]:
    """Keys that stand in more than one row of their table."""
    found = []
    for name in tables_of(uri):
        dataset = lance_io.open_table(uri, name)
        key = primary_key(dataset.schema)
        keys = dataset.to_table(columns=[key])[key].to_pylist()
        twice = [value for value, count in Counter(keys).items() if count > 1]
        found += [f"{name}: {len(twice)} keys more than once, such as {twice[0]}"] if twice else []
    return found


def half_rows(uri: str | Path, *, settled: bool) -> list[str]:
    """Chips whose prompts or masks are not all there.

    Args:
        uri: the store.
        settled: whether a run has gone to its end, so that prompts also carry the chip's inputs. Between the commits of
            a chip that is made again, its prompts are those of the row to come.
    """
    chips = _columns(uri, "training_data", "uuid", "input_set", "n_prompts", "mask_recipe", "run_id")
    prompts = _columns(uri, "prompts", "uuid", "input_set", "prompt_id")
    masks = {(row["prompt_id"], row["uuid"]) for row in _columns(uri, "masks", "prompt_id", "uuid")}
    found = []
    for chip in chips:
        asked = [row for row in prompts if row["uuid"] == chip["uuid"]]
        of_row = [row for row in asked if row["input_set"] == chip["input_set"]]
        counted = of_row if settled else asked
        if len(counted) < chip["n_prompts"] or (settled and len(counted) != chip["n_prompts"]):
            found.append(f"chip {chip['uuid']} has {chip['n_prompts']} prompts, the table {len(counted)}")
        without = [row["prompt_id"] for row in of_row if (row["prompt_id"], row["uuid"]) not in masks]
        if without:
            found.append(f"chip {chip['uuid']}: no mask of prompts {without}")
    runs = {row["run_id"] for row in _columns(uri, "runs", "run_id")}
    strange = {chip["run_id"] for chip in chips} - runs
    return found + ([f"rows of runs that are not in the table runs: {sorted(strange)}"] if strange else [])


def _columns(uri: str | Path, table: str, *columns: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = lance_io.scan(uri, table, list(columns)).to_pylist()
    return rows


def engines_disagree(uri: str | Path) -> list[str]:
    """Tables that pylance, lancedb or DuckDB's extension cannot read, or count otherwise."""
    names = tables_of(uri)
    if not names:
        return []
    found = []
    lake, duck = lancedb.connect(str(uri)), duckdb.connect()
    import_extension("lance", con=duck)
    duck.load_extension("lance")
    duck.execute(f"ATTACH '{uri}' AS ns (TYPE LANCE)")
    for name in names:
        dataset = lance_io.open_table(uri, name)
        key = primary_key(dataset.schema)
        counts = {
            "pylance": len(dataset.to_table()),
            "lancedb": len(lake.open_table(name).to_arrow()),
            "duckdb": duck.execute(f'SELECT count("{key}") FROM ns.main."{name}"').fetchall()[0][0],
        }
        if len(set(counts.values())) > 1:
            found.append(f"table {name}: {counts}")
    duck.close()
    return found


def orphans(uri: str | Path) -> list[Path]:
    """Data files of tables that no version refers to."""
    found: list[Path] = []
    for folder in sorted(Path(uri).glob("*.lance")):
        try:
            dataset = lance_io.open_table(uri, folder.stem)
        except TableNotFoundError:
            found += [path for path in folder.rglob("*") if path.is_file()]
            continue
        known = {
            data_file.path
            for version in dataset.versions()
            for fragment in dataset.checkout_version(version["version"]).get_fragments()
            for data_file in fragment.data_files()
        }
        found += [path for path in (folder / "data").glob("*.lance") if path.name not in known]
    return found


def unindexed(uri: str | Path) -> list[str]:
    """Tables with rows their indexes do not know, or without the indexes they are to have."""
    found = []
    for name, columns in lance_io._INDEXED.items():
        if not lance_io.table_exists(uri, name) or not lance_io.open_table(uri, name).count_rows():
            continue
        dataset = lance_io.open_table(uri, name)
        present = {column: index.name for index in dataset.describe_indices() for column in index.field_names}
        for column in columns:
            if column not in present:
                found.append(f"{name}.{column} has no index")
            elif dataset.stats.index_stats(present[column])["num_unindexed_rows"]:
                found.append(f"{name}.{column}: rows the index does not know")
    return found
