"""What a commit takes as its table grows: looks for keys, the fenced commit, and the upkeep of indexes.

Tables of so many files, the same small file many times over (Lance takes that, ``store.fragments`` would not), so what
is measured is the cost of files, not of pixels. Wall and CPU time, the least of some rounds each.

    python benchmarks/commit_growth.py [--files 100 1000 4000] [--rounds 3]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from store import fragments, lance_io
from store.fragments import StagedRows
from store.schemas import schema_for
from utils.types import ChipProfile

TABLE = "training_data"
KEYS = [f"key {number}" for number in range(136)]
"""As many as a commit of eight partitions has."""


def least(work: Callable[[], Any], rounds: int) -> str:
    """Least wall and CPU time, ms."""
    wall, cpu = [], []
    for _ in range(rounds):
        start, used = time.perf_counter(), time.process_time()
        work()
        wall.append(1e3 * (time.perf_counter() - start))
        cpu.append(1e3 * (time.process_time() - used))
    return f"{min(wall):7.0f} {min(cpu):7.0f}"


def grown(uri: Path, files: int, profile: ChipProfile) -> StagedRows:
    """Make a table of so many files; returns one staged row for it."""
    one = fragments.stage(uri, TABLE, _row(profile), profile=profile)
    for start in range(0, files, 1000):
        some = StagedRows(table=TABLE, fragments=one.fragments * min(1000, files - start), keys=one.keys)
        fragments._merged(lance_io.open_table(uri, TABLE), [some])  # noqa: SLF001 - commit refuses a key twice
    return one


def measure(uri: Path, files: int, profile: ChipProfile, rounds: int) -> None:
    """Print what each step takes on a table of so many files."""
    one = grown(uri, files, profile)

    def look() -> None:
        fragments.known_keys(uri, TABLE, KEYS)

    def commit() -> None:
        fragments._merged(lance_io.open_table(uri, TABLE), [one])  # noqa: SLF001 - the commit without the look

    print(f"{files:,} files                               wall ms  CPU ms")
    for what, work, times in (
        ("look for 136 keys, no index", look, rounds),
        ("fenced commit", commit, rounds),
        ("make the indexes", lambda: lance_io.refresh_indexes(uri, TABLE), 1),
        ("look for 136 keys, all indexed", look, rounds),
        ("fenced commit, with indexes", commit, rounds),
        (f"look for 136 keys, {rounds} files not indexed", look, rounds),
        (f"bring the indexes up by {rounds} files", lambda: lance_io.refresh_indexes(uri, TABLE), 1),
    ):
        print(f"  {what:40} {least(work, times)}")


def _row(profile: ChipProfile) -> pa.Table:
    """One row of ``training_data`` with nothing in it."""
    schema = schema_for(TABLE, profile)
    columns = []
    for column in schema:
        kind = column.type
        if isinstance(kind, pa.FixedShapeTensorType):
            size = kind.storage_type.list_size
            flat = pa.array(np.zeros(size), kind.value_type)
            columns.append(pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, size)))
        else:
            columns.append(pa.nulls(1, kind) if column.nullable else pa.array([_empty(kind)], kind))
    return pa.Table.from_arrays(columns, schema=schema)


def _empty(kind: pa.DataType) -> Any:
    if pa.types.is_fixed_size_list(kind):
        return [0.0] * kind.list_size
    if pa.types.is_list(kind):
        return []
    return "" if pa.types.is_string(kind) else b"" if pa.types.is_binary(kind) else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[100, 1_000, 4_000])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for files in arguments.files:
            profile = ChipProfile(height=8, width=8, msi_bands=())
            measure(Path(folder) / str(files), files, profile, arguments.rounds)


if __name__ == "__main__":
    main()
