"""What stands around chips and detections: distance, overlap and class of the features near each, exact."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from utils.context_pairs import Local, box_gaps, candidates, zones
from utils.context_places import Geometries
from utils.context_rule import OWN_COLUMNS, ContextRule
from utils.errors import ConfigError

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


def context_by_cell(targets: pa.Table, features: pa.Table, rule: ContextRule, *, key: str = "uuid") -> pa.Table:
    """One row per target, in order: what the features of one table are to it.

    Candidates are pairs that share an S2 cell (``utils.context_cells``: none is lost); what is told of them is measured
    in the UTM zone of the target's centre, in metres of that grid, with the straight lines of longitude and latitude.
    Columns, each with the prefix ``<rule.name>_``:

    - ``distance_m``: to the nearest feature; 0 where one touches the target, null where none lies within ``search_m``.
    - ``count``: features that touch the target.
    - ``area_fraction``: share of the target's area that features cover, overlaps counted once; null for targets
      without area.
    - ``nearest_id``: the nearest feature; among those that touch, the one that covers most of the target, then the
      first by id.
    - every further column of ``features``: its value at the nearest feature.
    - ``class``, ``class_fraction``, ``class_fractions`` (kind ``classes``): the class that covers the largest share of
      the target (the first by name among equals), that share, and the share of every class that covers some.
    - ``class_at_centre`` (kind ``classes``): class of the feature that covers the centre of the target; of several, the
      smallest, then the first by id. Targets without area take ``class`` from it.

    Args:
        targets: ``key`` and ``geometry`` (WKB, EPSG:4326, valid); chips, detections or points.
        features: ``feature_id``, ``geometry`` (WKB, EPSG:4326, valid), ``feature_class`` for kind ``classes``, and
            columns to carry. A column ``s2_cells`` is left aside.
        rule: name, kind and search distance.
        key: column of ``targets`` that names them.

    Raises:
        ConfigError: a column is missing.
        GeometryError: a geometry is missing, empty or off the globe.
        CRSError: a target lies outside 80° S to 84° N, where UTM ends.
    """
    needed = {"feature_id", "geometry"} | ({"feature_class"} if rule.kind == "classes" else set())
    for what, table, wanted in (("targets", targets, {key, "geometry"}), ("features", features, needed)):
        if wanted - set(table.column_names):
            raise ConfigError(
                f"context {rule.name}: the {what} lack {sorted(wanted - set(table.column_names))}; "
                f"they have {table.column_names}"
            )
    place, shapes = _read(targets["geometry"]), _read(features["geometry"])
    ids = pc.rank(features["feature_id"].combine_chunks(), sort_keys="ascending", tiebreaker="first").to_numpy()
    classes = features["feature_class"].combine_chunks().dictionary_encode() if rule.kind == "classes" else None
    sizes = shapely.area(shapes)
    found = _Found.of(place, rule.search_m)
    for zone, chosen in zones(place):
        for local, t, f in candidates(place[chosen], shapes, zone, rule.search_m):
            pairs = _Pairs(rows=chosen[t], t=t, f=f, features=local.feature_of[f], rank=np.asarray(ids, np.int64))
            touching, overlaps = _touch(found, local, pairs)
            _take_nearest(found, local, pairs, touching, overlaps)
            if classes is not None:
                _classify(found, local, pairs, touching, overlaps, classes, sizes)
    return _as_table(targets, features, rule, key, found)


@dataclass(kw_only=True)
class _Found:
    """What is known of each target so far."""

    search_m: float
    distance_m: _Floats
    nearest: _Ints
    count: _Ints
    area_fraction: _Floats
    shares: list[list[tuple[str, float]]]
    class_at_centre: list[str | None]

    @classmethod
    def of(cls, targets: Geometries, search_m: float) -> "_Found":
        """Nothing near any target."""
        count = len(targets)
        return cls(
            search_m=search_m,
            distance_m=np.full(count, np.nan),
            nearest=np.full(count, -1, np.int64),
            count=np.zeros(count, np.int64),
            area_fraction=np.where(shapely.area(targets) > 0, 0.0, np.nan),
            shares=[[] for _ in range(count)],
            class_at_centre=[None] * count,
        )


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Candidates: one target and one feature each, shapes (m,)."""

    rows: _Ints
    """Row in the table of targets."""
    t: _Ints
    """Position among the zone's targets."""
    f: _Ints
    """Position among the zone's features."""
    features: _Ints
    """Row in the table of features."""
    rank: _Ints
    """Order of the features' ids, by row."""


def _read(column: pa.ChunkedArray) -> Geometries:
    geometries = np.empty(len(column), object)
    geometries[:] = shapely.from_wkb(column.to_numpy())
    return np.asarray(shapely.force_2d(geometries), object).reshape(len(column))


def _span(boxes: _Floats, others: _Floats) -> _Floats:
    """Greatest distance between points of two boxes."""
    x = np.maximum(others[:, 2] - boxes[:, 0], boxes[:, 2] - others[:, 0])
    y = np.maximum(others[:, 3] - boxes[:, 1], boxes[:, 3] - others[:, 1])
    return np.hypot(x, y)


def _touch(found: _Found, local: Local, pairs: _Pairs) -> tuple[_Ints, Geometries]:
    """Pairs that touch, and their common part; counts and covered areas are filled in."""
    targets, features = local.targets[pairs.t], local.features[pairs.f]
    close = np.flatnonzero(box_gaps(shapely.bounds(targets), shapely.bounds(features)) == 0)
    touching = close[shapely.intersects(targets[close], features[close])]
    np.add.at(found.count, pairs.rows[touching], 1)
    targets, features = targets[touching], features[touching]
    overlaps = features.copy()
    across = np.flatnonzero(~shapely.covers(targets, features))
    overlaps[across] = shapely.intersection(targets[across], features[across])
    flat = np.isnan(found.area_fraction[pairs.rows[touching]])
    owners, areas = _covered(pairs.t[touching][~flat], overlaps[~flat])
    rows = np.zeros(len(local.targets), np.int64)
    rows[pairs.t] = pairs.rows
    found.area_fraction[rows[owners]] = np.minimum(areas / shapely.area(local.targets[owners]), 1.0)
    return touching, overlaps


def _covered(owners: _Ints, overlaps: Geometries) -> tuple[_Ints, _Floats]:
    """Each owner once, and the area that its overlaps cover together."""
    groups, place, size = np.unique(owners, return_inverse=True, return_counts=True)
    areas = np.zeros(len(groups))
    alone = size[place] == 1
    areas[place[alone]] = shapely.area(overlaps[alone])
    several = np.flatnonzero(~alone)
    if len(several):
        several = several[np.argsort(place[several], kind="stable")]
        many, slot = np.unique(place[several], return_inverse=True)
        parts, of_part = shapely.get_parts(overlaps[several], return_index=True)
        parts, of_part = parts[shapely.get_dimensions(parts) == 2], of_part[shapely.get_dimensions(parts) == 2]
        polygons, of_polygon = shapely.get_parts(parts, return_index=True)
        together = shapely.geometrycollections(
            polygons, indices=slot[of_part[of_polygon]], out=np.full(len(many), shapely.GeometryCollection())
        )
        areas[many] = shapely.area(shapely.union_all(together[:, None], axis=1))
    return groups, areas


def _take_nearest(found: _Found, local: Local, pairs: _Pairs, touching: _Ints, overlaps: Geometries) -> None:
    touched = np.zeros(len(local.targets), np.bool_)
    touched[pairs.t[touching]] = True
    apart = np.flatnonzero(~touched[pairs.t])
    boxes, others = shapely.bounds(local.targets[pairs.t[apart]]), shapely.bounds(local.features[pairs.f[apart]])
    # a feature whose box is farther off than the whole of another cannot be the nearest
    least = np.full(len(local.targets), np.inf)
    np.minimum.at(least, pairs.t[apart], _span(boxes, others))
    apart = apart[box_gaps(boxes, others) <= least[pairs.t[apart]]]
    distance_m = shapely.distance(local.targets[pairs.t[apart]], local.features[pairs.f[apart]])
    apart, distance_m = apart[distance_m <= found.search_m], distance_m[distance_m <= found.search_m]
    chosen = np.concatenate([touching, apart])
    distance_m = np.concatenate([np.zeros(len(touching)), distance_m])
    # parts of a square millimetre are noise of the overlay
    overlap_m2 = np.concatenate([np.round(shapely.area(overlaps), 6), np.zeros(len(apart))])
    order = np.lexsort((pairs.rank[pairs.features[chosen]], -overlap_m2, distance_m, pairs.rows[chosen]))
    rows, first = np.unique(pairs.rows[chosen][order], return_index=True)
    found.distance_m[rows] = distance_m[order][first]
    found.nearest[rows] = pairs.features[chosen][order][first]


def _classify(
    found: _Found,
    local: Local,
    pairs: _Pairs,
    touching: _Ints,
    overlaps: Geometries,
    classes: pa.DictionaryArray,
    sizes: _Floats,
) -> None:
    """Fill in the classes of the targets of one block; features without a class have none to give."""
    names = classes.dictionary.to_pylist()
    codes = classes.indices.fill_null(-1).to_numpy().astype(np.int64)[pairs.features[touching]]
    rows = pairs.rows[touching]
    areal = (codes >= 0) & ~np.isnan(found.area_fraction[rows]) & (shapely.area(overlaps) > 0)
    width = max(len(names), 1)
    keys, areas = _covered(pairs.t[touching][areal] * width + codes[areal], overlaps[areal])
    row_of = np.zeros(len(local.targets), np.int64)
    row_of[pairs.t] = pairs.rows
    shares = np.minimum(areas / shapely.area(local.targets[keys // width]), 1.0)
    for k, code, share in zip(row_of[keys // width].tolist(), (keys % width).tolist(), shares.tolist(), strict=True):
        found.shares[k].append((str(names[code]), share))
    points = centre_points(local.targets[pairs.t[touching]])
    hit = np.flatnonzero((codes >= 0) & shapely.intersects(local.features[pairs.f[touching]], points))
    features = pairs.features[touching][hit]
    order = np.lexsort((pairs.rank[features], sizes[features], rows[hit]))
    at, first = np.unique(rows[hit][order], return_index=True)
    for k, code in zip(at.tolist(), codes[hit][order][first].tolist(), strict=True):
        found.class_at_centre[k] = str(names[code])


def centre_points(geometries: Geometries) -> Geometries:
    """Centroid of each geometry, or a point on it where the centroid lies outside."""
    points = np.asarray(shapely.centroid(geometries), object).reshape(len(geometries))
    outside = np.flatnonzero(~shapely.intersects(geometries, points))
    points[outside] = shapely.point_on_surface(geometries[outside])
    return points


def _as_table(targets: pa.Table, features: pa.Table, rule: ContextRule, key: str, found: _Found) -> pa.Table:
    nearest = pa.array(found.nearest, pa.int64(), mask=found.nearest < 0)
    near = features.combine_chunks()
    columns: dict[str, pa.Array] = {
        "distance_m": pa.array(found.distance_m, pa.float64(), from_pandas=True),
        "count": pa.array(found.count, pa.int32()),
        "area_fraction": pa.array(found.area_fraction, pa.float64(), from_pandas=True),
        "nearest_id": near["feature_id"].cast(pa.string()).take(nearest),
    }
    if rule.kind == "classes":
        ranked = [sorted(shares, key=lambda share: (-round(share[1], 9), share[0])) for shares in found.shares]
        has_area = ~np.isnan(found.area_fraction)
        columns |= {
            "class": pa.array(
                [
                    (shares[0][0] if shares else None) if area else centre
                    for shares, area, centre in zip(ranked, has_area, found.class_at_centre, strict=True)
                ],
                pa.string(),
            ),
            "class_fraction": pa.array([shares[0][1] if shares else None for shares in ranked], pa.float64()),
            "class_at_centre": pa.array(found.class_at_centre, pa.string()),
            "class_fractions": pa.array([sorted(s) for s in found.shares], pa.map_(pa.string(), pa.float64())),
        }
    columns |= {name: near[name].take(nearest) for name in near.column_names if name not in OWN_COLUMNS}
    return pa.table({key: targets[key], **{f"{rule.name}_{name}": column for name, column in columns.items()}})
