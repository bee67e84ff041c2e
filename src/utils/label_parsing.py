"""WKB and WKT columns to geometry, one broken value at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

_NONE = np.array(None, object)
_EWKT = r"^\s*(?i:SRID\s*=\s*(?P<srid>[0-9]{1,6})\s*;)"


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """Geometry as it was written; n labels."""

    geometry: NDArray[np.object_]
    """Geometry, shape (n,); None where there is none."""
    srid: NDArray[np.int64]
    """SRID the geometry names (EWKB, EWKT); 0 where it names none."""
    missing: NDArray[np.bool_]
    """Whether there was no value."""
    unparsable: NDArray[np.bool_]
    """Whether the value is no geometry."""
    closed: NDArray[np.bool_]
    """Whether an open ring was closed."""


def parsed_geometry(wkb: pa.Array | pa.ChunkedArray, wkt: pa.Array | pa.ChunkedArray) -> Parsed:
    """Parse one value per label: WKB where there is one, else WKT; EWKB and EWKT are understood.

    Rings that are not closed are closed and marked; what still cannot be parsed is marked.
    """
    binary = _objects(wkb)
    text, srid = _plain_wkt(wkt)
    has_binary, has_text = ~absent(binary), ~absent(text)
    has_text &= ~has_binary
    geometry = np.full(len(binary), None, object)
    geometry[has_binary] = _read(binary[has_binary], shapely.from_wkb, "ignore")
    geometry[has_text] = _read(text[has_text], shapely.from_wkt, "ignore")
    broken = (has_binary | has_text) & absent(geometry)
    for values, read, here in (
        (binary, shapely.from_wkb, broken & has_binary),
        (text, shapely.from_wkt, broken & has_text),
    ):
        if here.any():
            geometry[here] = _read(values[here], read, "fix")
    named = np.where(absent(geometry), 0, shapely.get_srid(geometry))
    return Parsed(
        geometry=geometry,
        srid=np.where(has_binary, named, srid).astype(np.int64),
        missing=~(has_binary | has_text),
        unparsable=(has_binary | has_text) & absent(geometry),
        closed=broken & ~absent(geometry),
    )


def _read(values: NDArray[np.object_], reader: Callable[..., Any], on_invalid: str) -> NDArray[np.object_]:
    """Values parsed; None for those that cannot be, curves among them, for which shapely has no type."""
    try:
        found: NDArray[np.object_] = reader(values, on_invalid=on_invalid)
    except NotImplementedError:
        if len(values) == 1:
            return np.full(1, None, object)
        halves = (values[: len(values) // 2], values[len(values) // 2 :])
        found = np.concatenate([_read(half, reader, on_invalid) for half in halves])
    return found


def absent(values: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Whether each value is None."""
    found: NDArray[np.bool_] = np.equal(values, _NONE).astype(bool)
    return found


def _objects(values: pa.Array | pa.ChunkedArray) -> NDArray[np.object_]:
    found: NDArray[np.object_] = values.to_numpy(zero_copy_only=False) if len(values) else np.empty(0, object)
    return found.astype(object)


def _plain_wkt(wkt: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """WKT without the SRID of EWKT, and that SRID (0 without one)."""
    if wkt.null_count == len(wkt):
        return np.full(len(wkt), None, object), np.zeros(len(wkt), np.int64)
    found = pc.struct_field(pc.extract_regex(wkt, _EWKT), "srid")
    srid = pc.fill_null(pc.cast(pc.if_else(pc.equal(found, ""), None, found), pa.int64()), 0)
    return _objects(pc.replace_substring_regex(wkt, _EWKT, "")), srid.to_numpy(zero_copy_only=False)
