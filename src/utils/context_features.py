"""Features as a lake holds them, made ready to be joined: valid, in longitude and latitude, with their cells."""

import numpy as np
import pyarrow as pa
import shapely

from utils.context_cells import covering
from utils.context_places import Geometries, usable_geometries
from utils.context_rule import GEOMETRY
from utils.errors import AegirError, GeometryError, LabelError
from utils.failures import Failure


def usable_features(
    raw: pa.Table, crs: str, *, name: str, level: int, area: shapely.Geometry | None = None, node: str = "feature_check"
) -> tuple[pa.Table, list[Failure]]:
    """Features whose geometry can be used and meets ``area``, and what is wrong with the others.

    Args:
        raw: ``feature_id``, ``geometry_wkb`` or ``geometry_wkt`` (the other one null), and columns to keep.
        crs: CRS of the geometry.
        name: what the table is called in failures.
        level: S2 level of the column ``s2_cells``; large features have coarser cells.
        area: what features must meet, EPSG:4326; None keeps all.
        node: node that failures name.

    Returns:
        ``feature_id``, ``geometry`` (WKB, EPSG:4326), the kept columns, ``s2_cells`` (list of uint64: every cell of the
        level the feature meets is among them); and the failures.

    Raises:
        CRSError: the CRS is unknown.
    """
    ids = raw["feature_id"].to_pylist()
    wkb, wkt = raw["geometry_wkb"].to_pylist(), raw["geometry_wkt"].to_pylist()
    texts = wkt if any(text is not None for text in wkt) else wkb
    geometries, problems = usable_geometries(texts, crs)
    bad: dict[int, AegirError] = dict(problems)
    bad |= {
        k: GeometryError("the feature has no id; ids are what results are traced back by")
        for k, i in enumerate(ids)
        if i is None
    }
    _, first = np.unique(np.array([str(i) for i in ids], object).astype(str), return_index=True)
    for k in sorted(set(range(len(ids))) - set(first.tolist())):
        bad.setdefault(k, LabelError("the id is used twice; ids are unique within a context table"))
    failures = [
        Failure.of(node, bad[k], input_ids=(f"{name}/{ids[k] if ids[k] is not None else '(no id)'}",))
        for k in sorted(bad)
    ]
    good = np.ones(len(ids), np.bool_)
    good[list(bad)] = False
    if area is not None and len(geometries):
        shapely.prepare(area)
        good &= shapely.intersects(area, geometries)
    return with_cells(
        raw.drop_columns(["geometry_wkb", "geometry_wkt"]).filter(pa.array(good)), geometries[good], level
    ), failures


def with_cells(table: pa.Table, geometries: Geometries, level: int) -> pa.Table:
    """``table`` with the columns ``geometry`` and ``s2_cells`` of its features."""
    cells = covering(geometries, level, adaptive=True).lists(len(geometries)) if len(geometries) else []
    offsets = np.cumsum([0, *map(len, cells)]).astype(np.int32)
    flat = np.concatenate(cells) if cells else np.empty(0, np.uint64)
    table = table.add_column(1, GEOMETRY, pa.array(shapely.to_wkb(geometries), pa.binary()))
    return table.append_column("s2_cells", pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, pa.uint64())))
