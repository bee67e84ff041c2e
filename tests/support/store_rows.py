"""Valid rows for any table of the store, made from its schema alone."""

import json
from datetime import UTC, date, datetime, timedelta
from threading import Barrier
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from store import fragments, lance_io, leases
from store.schemas import primary_key, schema_for
from utils.types import ChipProfile

SMALL = ChipProfile(height=8, width=6, msi_bands=("B02", "B03", "B04", "B08"), msi_height=5, msi_width=4)
"""A profile whose rows weigh nothing, with all four sizes different."""

HIGH = (1 << 63) + 12345
"""Beyond int64: what S2 cells of half the Earth look like."""


def rows_for(table: str, count: int = 3, *, first: int = 0, profile: ChipProfile | None = SMALL) -> pa.Table:
    """``count`` rows that fit ``table``; the key of row k is ``key-k``, nullable columns are null in odd rows."""
    profile = profile or ChipProfile()
    schema = schema_for(table, profile)
    random = np.random.default_rng([first, *table.encode()])
    key = primary_key(schema)
    columns = []
    for field in schema:
        if field.name == key:
            columns.append(pa.array([f"key-{first + k}" for k in range(count)], field.type))
        else:
            columns.append(_column(field, count, first, profile, random))
    return pa.table(columns, schema=schema)


def replaced(table: pa.Table, **columns: list[Any]) -> pa.Table:
    """``table`` with other values in some columns, types as they were."""
    for name, values in columns.items():
        field = table.schema.field(name)
        table = table.set_column(table.column_names.index(name), field, pa.array(values, field.type))
    return table


def _column(field: pa.Field, count: int, first: int, profile: ChipProfile, random: np.random.Generator) -> pa.Array:
    kind = field.type
    if isinstance(kind, pa.FixedShapeTensorType):
        shape = (count, *kind.shape)
        pixels = random.integers(0, np.iinfo(kind.value_type.to_pandas_dtype()).max, shape, endpoint=True)
        flat = pa.array(pixels.astype(kind.value_type.to_pandas_dtype()).ravel())
        return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, int(np.prod(kind.shape))))
    values = [_value(field, first + k, profile, random) for k in range(count)]
    if field.nullable:
        values = [None if (first + k) % 2 else value for k, value in enumerate(values)]
    return pa.array(values, kind)


def _value(field: pa.Field, k: int, profile: ChipProfile, random: np.random.Generator) -> Any:
    kind = field.type
    if pa.types.is_large_binary(kind):
        msi = field.name.startswith("msi")
        size = profile.msi_height * profile.msi_width if msi else profile.height * profile.width
        return random.choice(np.array([0, 1, 255], np.uint8), size).tobytes()
    by_type = {
        pa.types.is_binary: shapely.to_wkb(shapely.box(8 + k, 47, 8.5 + k, 47.5)),
        pa.types.is_uint64: HIGH + k,
        pa.types.is_integer: k,
        pa.types.is_floating: k / 4,
        pa.types.is_boolean: bool(k % 2),
        pa.types.is_date: date(2024, 2, 28) + timedelta(days=k),
        pa.types.is_timestamp: datetime(2026, 7, 1, 10, 30, tzinfo=UTC) + timedelta(days=k),
        pa.types.is_date: date(2026, 7, 1) + timedelta(days=k),
        pa.types.is_map: _pairs(kind, k),
        pa.types.is_fixed_size_list: [0.3, 0.0, 500_000.0 + k, 0.0, -0.3, 5_200_000.0],
        pa.types.is_list: [f"{field.name}-{k}", "second"],
    }
    for fits, value in by_type.items():
        if fits(kind):
            return value
    is_json = (field.metadata or {}).get(b"doc", b"").startswith(b"JSON")
    return json.dumps({"k": k}) if is_json else f"{field.name} {k}"


def _pairs(kind: pa.DataType, k: int) -> list[tuple[str, Any]]:
    if not pa.types.is_map(kind):
        return []
    texts = pa.types.is_string(kind.item_type)
    return [(name, str(value) if texts else value) for name, value in (("train", k), ("test", k + 1))]


def race(uri: str, table: str, keys: int, writes: int, writer: int, start: Barrier) -> None:
    """Upsert the same keys again and again from one of several processes; ``run_id`` names the writer."""
    start.wait()
    for turn in range(writes):
        data = rows_for(table, keys)
        mark = pa.array([f"writer {writer} turn {turn}"] * keys)
        lance_io.write(
            uri, table, data.set_column(data.column_names.index("run_id"), data.schema.field("run_id"), mark)
        )


def race_in_turns(uri: str, table: str, turns: int, start: Barrier) -> None:
    """Upsert new keys, the same as the other processes at the same time, turn by turn."""
    for turn in range(turns):
        data = rows_for(table, 20, first=1000 + 20 * turn)
        start.wait()
        lance_io.write(uri, table, data)


def race_to_create(uri: str, turns: int, writer: int, start: Barrier) -> None:
    """Make a store of its own each turn, with a row nobody else writes, at the same time as the other processes."""
    for turn in range(turns):
        data = rows_for("prompts", 1, first=writer)
        start.wait()
        lance_io.write(f"{uri}/{turn}", "prompts", data)


def race_to_commit(uri: str, rounds: int, keys: int, writer: int, start: Barrier) -> None:
    """Stage and commit the same new keys as other processes, round by round; ``run_id`` names the writer."""
    start.wait()
    for turn in range(rounds):
        data = replaced(rows_for("training_data", keys, first=turn * keys), run_id=[f"writer {writer}"] * keys)
        staged = fragments.stage(uri, "training_data", data, profile=SMALL)
        fragments.commit(uri, "training_data", [staged], profile=SMALL)


def race_to_be_first(uri: str, writer: int, start: Barrier, won: Any) -> None:
    """Be the one of several processes that fills an empty table; puts whether it was into ``won``."""
    start.wait()
    won.put(fragments.commit_if_empty(uri, "splits", rows_for("splits", 1, first=writer)))


def race_for_leases(uri: str, number: int, keys: int, start: Barrier, granted: Any) -> None:
    """Claim the same leases as other processes, three at a time; puts those it got into ``granted``."""
    start.wait()
    holder, taken = leases.Holder(run_id=f"run {number}", lease_s=600.0), set[str]()
    for first in range(0, keys, 3):
        taken |= leases.claim(uri, holder, [f"key {key}" for key in range(first, first + 3)])
    granted.put(taken)
