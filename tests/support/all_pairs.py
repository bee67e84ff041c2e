"""The context join by brute force: every target against every feature of its zone, shapely and pyproj alone."""

from typing import Any

import numpy as np
import shapely
from pyproj import Transformer

EDGE_DEG = 0.001


def zone_of(lon: float, lat: float) -> int:
    """EPSG code of the plain 6° UTM zone."""
    return (32600 if lat >= 0 else 32700) + int((lon + 180) // 6) % 60 + 1


def in_zone(geometry: shapely.Geometry, epsg: int) -> shapely.Geometry:
    """``geometry`` in metres, its long edges divided first."""
    move = Transformer.from_crs(4326, epsg, always_xy=True).transform
    dense = shapely.segmentize(geometry, EDGE_DEG)
    moved = shapely.transform(dense, lambda xy: np.column_stack(move(xy[:, 0], xy[:, 1])))
    # halves on either side of the antimeridian share an edge here
    return moved if moved.is_valid else shapely.union_all(shapely.get_parts(moved))


def all_pairs(
    targets: list[shapely.Geometry],
    features: list[shapely.Geometry],
    ids: list[str],
    search_m: float,
    classes: list[str] | None = None,
) -> list[dict[str, Any]]:
    """What each target's row should say."""
    rows, cache = [], {}
    for target in targets:
        largest = max(shapely.get_parts(target), key=lambda part: part.area)
        west, south, east, north = largest.bounds
        zone = zone_of((west + east) / 2, (south + north) / 2)
        if zone not in cache:
            moved = np.array([in_zone(feature, zone) for feature in features], object)
            cache[zone] = moved, shapely.STRtree(moved)
        moved, tree = cache[zone]
        here = in_zone(target, zone)
        near = tree.query(here, predicate="dwithin", distance=search_m)
        rows.append(_row(here, moved, near, ids, classes, features))
    return rows


def _row(here, moved, near, ids, classes, features) -> dict[str, Any]:
    touching = [i for i in near if moved[i].intersects(here)]
    overlap = {i: moved[i].intersection(here) for i in touching}
    order = sorted(
        near, key=lambda i: (moved[i].distance(here), -round(overlap[i].area, 6) if i in overlap else 0.0, ids[i])
    )
    row: dict[str, Any] = {
        "distance_m": moved[order[0]].distance(here) if order else None,
        "nearest_id": ids[order[0]] if order else None,
        "count": len(touching),
        "area_fraction": shapely.union_all(list(overlap.values())).area / here.area if here.area else None,
    }
    if classes is not None:
        shares = {}
        for name in {classes[i] for i in touching if overlap[i].area > 0} if here.area else ():
            shares[name] = shapely.union_all([overlap[i] for i in touching if classes[i] == name]).area / here.area
        best = sorted(shares, key=lambda name: (-round(shares[name], 9), name))
        centre = here.centroid if here.centroid.intersects(here) else here.point_on_surface()
        there = sorted((i for i in touching if moved[i].intersects(centre)), key=lambda i: (features[i].area, ids[i]))
        at_centre = classes[there[0]] if there else None
        row |= {
            "class": (best[0] if best else None) if here.area else at_centre,
            "class_fraction": shares[best[0]] if best else None,
            "class_at_centre": at_centre,
            "class_fractions": shares,
        }
    return row


def differences(found: list[dict[str, Any]], wanted: list[dict[str, Any]], name: str) -> tuple[int, int]:
    """Values compared, and those that differ: numbers by more than a micrometre or a part in 10⁹."""
    compared = different = 0
    for one, other in zip(found, wanted, strict=True):
        for column, value in other.items():
            mine = one[f"{name}_{column}"]
            mine = dict(mine) if column == "class_fractions" else mine
            compared += 1
            if not _same(mine, value):
                print(f"{column}: {mine!r} is not {value!r}")
                different += 1
    return compared, different


def _same(mine: Any, value: Any) -> bool:
    if isinstance(value, dict):
        return mine.keys() == value.keys() and all(_same(mine[key], value[key]) for key in value)
    if isinstance(value, float) and mine is not None:
        return abs(mine - value) <= 1e-6 + 1e-9 * abs(value)
    return mine == value
