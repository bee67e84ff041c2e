"""Where labels fall, in bulk: the same as label by label with shapely, and found again by position."""

import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataflows._placement import PlacementRule, placed_labels
from dataflows.label_deduplication import DISTINCT_LABELS as LABELS
from utils.errors import GeometryError
from utils.geo import ChipLattice, reproject, utm_epsg
from utils.prompts import prompt_geometry
from utils.types import ChipProfile

PROFILE = ChipProfile(height=64, width=96, gsd_m=0.5, msi_bands=())
RULE = PlacementRule(margin_share=0.1, point_box_m=12.0, min_overlap=0.2, max_label_m=400.0)


def labels_of(kinds, shapes):
    rows = [
        {
            "label_id": f"pv/{number}",
            "dataset": "pv",
            "label_table": "pv",
            "kind": kind,
            "geometry": shapely.to_wkb(shape),
            "repairs": [],
            "merged": [],
        }
        for number, (kind, shape) in enumerate(zip(kinds, shapes, strict=True))
    ]
    return pa.Table.from_pylist(rows, schema=LABELS)


def one_by_one(kinds, shapes):
    """The positions, flags and prompts of every label by itself."""
    found = set()
    for number, (kind, lonlat) in enumerate(zip(kinds, shapes, strict=True)):
        epsg = utm_epsg(lonlat.envelope.centroid.x, lonlat.envelope.centroid.y)
        lattice = ChipLattice(epsg=epsg, gsd_m=PROFILE.gsd_m, height=PROFILE.height, width=PROFILE.width)
        label = reproject(lonlat, 4326, epsg)
        prompt = prompt_geometry(label, kind, margin_share=RULE.margin_share, point_box_m=RULE.point_box_m)
        for ix, iy in zip(*lattice.touching(label), strict=True):
            chip = lattice.grid(int(ix), int(iy)).footprint
            makes = label.area == 0 or label.intersection(chip).area >= 0.2 * min(label.area, chip.area)
            found.add((epsg, int(ix), int(iy), number, bool(makes), not chip.covers(prompt)))
    return found


def as_set(ground):
    return {tuple(row.values()) for row in ground.chips.to_pylist()}


SHAPES = st.tuples(
    st.sampled_from(["point", "box", "polygon"]),
    st.sampled_from([(11.9995, 47.0), (5.9999, -33.5), (9.1, 0.0001), (-179.9, 12.0), (8.0, 70.0)]),
    st.tuples(st.floats(-0.002, 0.002), st.floats(-0.002, 0.002)),
    st.tuples(st.floats(1e-5, 2e-3), st.floats(1e-5, 2e-3)),
)


def shape_of(kind, place, shift, size):
    x, y = place[0] + shift[0], place[1] + shift[1]
    if kind == "point":
        return shapely.Point(x, y)
    if kind == "box":
        return shapely.box(x, y, x + size[0], y + size[1])
    return shapely.Polygon([(x, y), (x + size[0], y + size[1] / 3), (x + size[0] / 4, y + size[1])])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(SHAPES, min_size=1, max_size=12))
def test_in_bulk_as_one_by_one(entries):
    kinds, shapes = [entry[0] for entry in entries], [shape_of(*entry) for entry in entries]
    ground, prompts, failures = placed_labels(labels_of(kinds, shapes), PROFILE, RULE)
    failed = {int(failure.input_ids[0].removeprefix("pv/")) for failure in failures}
    kept = [number for number in range(len(shapes)) if number not in failed]
    expected = {
        (*row[:3], kept[row[3]], *row[4:]) for row in one_by_one([kinds[k] for k in kept], [shapes[k] for k in kept])
    }
    assert as_set(ground) == expected
    assert prompts["label"].to_pylist() == kept
    for number, wkb in zip(kept, prompts["utm_geometry"].to_pylist(), strict=True):
        lonlat = shapes[number]
        label = reproject(lonlat, 4326, utm_epsg(lonlat.envelope.centroid.x, lonlat.envelope.centroid.y))
        wanted = prompt_geometry(label, kinds[number], margin_share=RULE.margin_share, point_box_m=RULE.point_box_m)
        assert shapely.from_wkb(wkb).equals_exact(wanted, 1e-6)


def test_blocks_do_not_show(monkeypatch):
    rng = np.random.default_rng(5)
    shapes = [shape_of("polygon", (9, 47), rng.uniform(-0.01, 0.01, 2), rng.uniform(1e-4, 3e-3, 2)) for _ in range(60)]
    labels = labels_of(["polygon"] * 60, shapes)
    whole = placed_labels(labels, PROFILE, RULE)
    monkeypatch.setattr("dataflows._placement._LABELS_PER_BLOCK", 7)
    monkeypatch.setattr("dataflows._placement._CANDIDATES_PER_BLOCK", 5)
    parts = placed_labels(labels, PROFILE, RULE)
    assert parts[0].chips.equals(whole[0].chips)
    assert parts[1].equals(whole[1])
    assert [failure.input_ids for failure in parts[2]] == [failure.input_ids for failure in whole[2]]


def test_no_labels():
    ground, prompts, failures = placed_labels(LABELS.empty_table(), PROFILE, RULE)
    assert (len(ground.chips), len(prompts), failures, ground.made) == (0, 0, [], [])
    assert not ground.touches(32632, np.array([3]), np.array([4])).any()


def test_found_again_by_position():
    shapes = [shapely.box(9, 47, 9.002, 47.001), shapely.box(9.001, 47, 9.003, 47.001), shapely.Point(-3, -40)]
    ground, _, _ = placed_labels(labels_of(["box", "box", "point"], shapes), PROFILE, RULE)
    chips = ground.chips.to_pylist()
    asked = sorted({(row["epsg"], row["ix"], row["iy"]) for row in chips})
    which, rows = ground.rows_at(*np.array(asked).T)
    assert [asked[k] for k in which] == [
        (row["epsg"], row["ix"], row["iy"]) for row in (chips[k] for k in rows.tolist())
    ]
    assert sorted(rows.tolist()) == list(range(len(chips)))
    epsg, ix, iy = asked[0]
    assert ground.touches(epsg, np.array([ix, ix + 10_000]), np.array([iy, iy])).tolist() == [True, False]
    assert ground.elsewhere(32730)[0] == [position for position in asked if position[0] != 32730]


def test_a_lattice_too_fine_to_count_is_refused():
    tiny = ChipProfile(height=1, width=1, gsd_m=0.001, msi_bands=())
    with pytest.raises(GeometryError, match="at least 10 cm"):
        placed_labels(labels_of(["point"], [shapely.Point(9, 47)]), tiny, RULE)[0].touches(
            32632, np.array([0]), np.array([0])
        )
