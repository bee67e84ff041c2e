"""Which chips a plan holds: labelled by area, background by rule, days and scenes by coverage, splits by cell."""

from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import s2cell
import shapely
from hamilton import driver
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataflows import chip_plan as module
from dataflows.config import from_mapping
from dataflows.drivers import build_inputs
from dataflows.label_deduplication import DISTINCT_LABELS as LABELS
from store.fingerprint import digest
from support.store_rows import replaced, rows_for
from utils.errors import ConfigError, LabelsOutsideImageryError
from utils.geo import ChipLattice, reproject, reproject_points, s2_cell_polygon
from utils.split import SplitRule, split_of_cells
from utils.types import ChipProfile

EPSG = 32632
LATTICE = ChipLattice(epsg=EPSG, gsd_m=0.3, height=256, width=256)
SIDE = LATTICE.width_m
IX, IY = (int(axis[0]) for axis in LATTICE.index_of(560_000.0, 5_300_000.0))
LEFT, BOTTOM = IX * SIDE, IY * SIDE
RGB = ChipProfile(msi_bands=())
RULE = SplitRule(level=16, salt=3, fractions=(0.6, 0.2, 0.2), guard_m=0.0)
SETTINGS = build_inputs(
    from_mapping(
        {
            "catalog": "none",
            "labels": [{"table": "pv", "id": "id", "geometry": "geometry"}],
            "vhr": {"source": "local", "root": "none"},
            "background_near_ratio": 0,
            "background_far_ratio": 0,
            "partition_level": 14,
            "split_level": 16,
            "split_fractions": [0.6, 0.2, 0.2],
            "guard_m": 0,
        }
    )
)
DRIVER = driver.Builder().with_modules(module).build()


def rectangle(x, y, width, height):
    """A rectangle in units of chips, counted from the corner of chip (0, 0)."""
    return shapely.box(LEFT + x * SIDE, BOTTOM + y * SIDE, LEFT + (x + width) * SIDE, BOTTOM + (y + height) * SIDE)


def labels_of(*shapes, epsg=EPSG, points=()):
    """Labels of these shapes; ``points``: number of a label → its points on and off the object, multi-points."""
    rows = [
        {
            "label_id": f"pv/{number}",
            "dataset": "pv",
            "label_table": "pv",
            "kind": "point" if shape.geom_type == "Point" else "polygon",
            "geometry": shapely.to_wkb(reproject(shape, epsg, 4326)),
            "repairs": [],
            "merged": [],
            **{
                f"{sign}_points": shapely.to_wkb(reproject(found, epsg, 4326))
                for sign, found in zip(("positive", "negative"), dict(points).get(number, ()), strict=False)
                if found is not None
            },
        }
        for number, shape in enumerate(shapes)
    ]
    return pa.Table.from_pylist(rows, schema=LABELS)


def scenes_of(*entries, epsg=EPSG):
    """Scenes from (day, outline), newest first as every catalogue lists them."""
    entries = sorted(entries, key=lambda entry: entry[0], reverse=True)
    rows = rows_for("scenes", len(entries))
    return replaced(
        rows,
        scene_id=[f"{day}/{number}" for number, (day, _) in enumerate(entries)],
        acquired_at=[datetime.fromisoformat(day).replace(hour=10, tzinfo=UTC) for day, _ in entries],
        footprint=[shapely.to_wkb(reproject(outline, epsg, 4326)) for _, outline in entries],
    )


EVERYWHERE = rectangle(-30, -30, 60, 60)


def planned(nodes, shapes, *, vhr=None, msi=None, profile=RGB, rule=RULE, epsg=EPSG, store="/nowhere", **changes):
    """Nodes of the plan for labels of these shapes."""
    inputs = SETTINGS | {
        "labels": labels_of(*shapes, epsg=epsg, points=changes.pop("points", ())),
        "vhr_scenes": scenes_of(("2023-06-14", EVERYWHERE)) if vhr is None else vhr,
        "msi_scenes": msi,
        "chip_profile": profile,
        "store": store,
    }
    bbox = changes.pop("aoi_bbox_lonlat", None)
    inputs |= changes | {"area_of_interest": None if bbox is None else shapely.box(*bbox), "changed_ground": None}
    overrides = {} if rule is None else {"split_rule": rule, "stored_split_rule": None}
    wanted = [nodes] if isinstance(nodes, str) else nodes
    results = DRIVER.execute(wanted, inputs=inputs, overrides=overrides)
    return results[nodes] if isinstance(nodes, str) else results


def positions(table):
    """Chip positions counted from chip (0, 0)."""
    rows = table.select(["ix", "iy"]).to_pylist()
    return {(row["ix"] - IX, row["iy"] - IY) for row in rows}


def footprints(table):
    return [
        ChipLattice(epsg=row["epsg"], gsd_m=0.3, height=256, width=256).grid(row["ix"], row["iy"]).footprint
        for row in table.select(["epsg", "ix", "iy"]).to_pylist()
    ]


class TestLabelledChips:
    """Which chips labels make."""

    def test_a_label_makes_the_chips_it_lies_on(self):
        assert positions(planned("labelled_chips", [rectangle(0.2, 0.3, 0.2, 0.1)])) == {(0, 0)}
        assert positions(planned("labelled_chips", [rectangle(0.8, 0.3, 0.4, 0.1)])) == {(0, 0), (1, 0)}

    def test_a_sliver_makes_no_chip_and_is_no_prompt_there(self):
        results = planned(["labelled_chips", "prompts"], [rectangle(0.5, 0.3, 0.52, 0.1)])
        assert positions(results["labelled_chips"]) == {(0, 0)}
        assert len(results["prompts"]) == 1

    def test_a_sliver_is_a_prompt_on_a_chip_another_label_makes(self):
        shapes = [rectangle(0.5, 0.3, 0.52, 0.1), rectangle(1.5, 0.3, 0.2, 0.1)]
        results = planned(["labelled_chips", "prompts"], shapes)
        assert positions(results["labelled_chips"]) == {(0, 0), (1, 0)}
        asked = sorted((row["label_id"], row["clipped"]) for row in results["prompts"].to_pylist())
        assert asked == [("pv/0", True), ("pv/0", True), ("pv/1", False)]

    def test_a_park_larger_than_chips_makes_those_it_fills(self):
        """Of 4 × 3 chips touched, the outer ring holds a fifth of a side and more, or less than a tenth of a chip."""
        park = rectangle(0.8, 0.95, 2.25, 1.2)
        chips = positions(planned("labelled_chips", [park]))
        wanted = {
            (x, y)
            for x in range(-1, 5)
            for y in range(-1, 5)
            if rectangle(x, y, 1, 1).intersection(park).area >= 0.1 * SIDE**2
        }
        assert chips == wanted
        assert 2 < len(chips) < 12

    def test_a_point_makes_one_chip(self):
        corner = shapely.Point(LEFT + SIDE * 0.999, BOTTOM + SIDE * 0.999)
        results = planned(["labelled_chips", "prompts"], [corner])
        assert positions(results["labelled_chips"]) == {(0, 0)}
        [prompt] = results["prompts"].to_pylist()
        assert prompt["clipped"]
        asked = reproject(shapely.from_wkb(prompt["geometry"]), 4326, EPSG)
        assert asked.area == pytest.approx(225, rel=1e-3)
        assert asked.centroid.distance(corner) < 0.01

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        boxes=st.lists(
            st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.02, 2.4), st.floats(0.02, 2.4)),
            min_size=1,
            max_size=4,
        ),
        least=st.sampled_from([0.05, 0.1, 0.4, 0.9]),
    )
    def test_against_areas_of_every_chip_around(self, boxes, least):
        shapes = [rectangle(*box) for box in boxes]
        chips = {(x, y): rectangle(x, y, 1, 1) for x in range(-3, 6) for y in range(-3, 6)}
        shares = {
            at: max(chip.intersection(s).area / min(s.area, chip.area) for s in shapes) for at, chip in chips.items()
        }
        try:
            found = positions(planned("labelled_chips", shapes, min_overlap=least))
        except LabelsOutsideImageryError:
            found = set()
        assert {at for at, share in shares.items() if share >= least + 1e-6} <= found
        assert found <= {at for at, share in shares.items() if share >= least - 1e-6}

    def test_a_label_beyond_the_largest_size_is_a_failure(self):
        shapes = [rectangle(0.2, 0.3, 0.2, 0.1), rectangle(3, 3, 3, 0.5)]
        results = planned(["labelled_chips", "placement_failures"], shapes, max_label_m=2 * SIDE)
        assert positions(results["labelled_chips"]) == {(0, 0)}
        assert [failure.input_ids for failure in results["placement_failures"]] == [("pv/1",)]
        assert not planned("placement_failures", shapes, max_label_m=4 * SIDE)

    def test_every_chip_has_one_id_made_of_its_place_and_day(self):
        table = planned("labelled_chips", [rectangle(0.1, 0.1, 1.8, 0.2), rectangle(0.3, 0.6, 0.1, 0.1)])
        for row in table.to_pylist():
            assert row["uuid"] == LATTICE.chip_uuid(row["ix"], row["iy"], date(2023, 6, 14))
            [(lon, lat)] = reproject_points(LATTICE.centres(row["ix"], row["iy"]), EPSG, 4326)
            assert (row["lon"], row["lat"]) == pytest.approx((lon, lat), abs=1e-12)
        assert len(table) == 2

    def test_a_label_without_a_zone_is_a_failure_and_the_rest_goes_on(self):
        polar = reproject(shapely.Point(10, 88), 4326, 3413)
        shapes = [reproject(polar, 3413, 4326), reproject(rectangle(0.2, 0.3, 0.2, 0.1), EPSG, 4326)]
        results = planned(["labelled_chips", "placement_failures"], shapes, epsg=4326)
        assert positions(results["labelled_chips"]) == {(0, 0)}
        [failure] = results["placement_failures"]
        assert (failure.error_type, failure.input_ids) == ("CRSError", ("pv/0",))


class TestDays:
    """Which day a chip is read from; the chip of interest is (0, 0)."""

    label = rectangle(0.4, 0.4, 0.2, 0.2)

    def day(self, *entries, **changes):
        [row] = planned("labelled_chips", [self.label], vhr=scenes_of(*entries), **changes).to_pylist()
        return sorted(scene.split("/")[0] for scene in row["vhr_scene_ids"]), row

    def refusal(self, *entries, **changes):
        other = rectangle(20.4, 20.4, 0.2, 0.2)
        served = ("2020-01-01", rectangle(19, 19, 4, 4))
        results = planned(
            ["labelled_chips", "coverage_failures"],
            [self.label, other],
            vhr=scenes_of(*entries, served),
            **changes,
        )
        assert positions(results["labelled_chips"]) == {(20, 20)}
        [failure] = results["coverage_failures"]
        assert failure.error_type == "NoImageryError"
        assert "pv/0" in failure.input_ids
        return failure.message

    def test_the_newest_that_covers_it_whole(self):
        days = ("2021-05-01", EVERYWHERE), ("2023-05-01", EVERYWHERE), ("2022-05-01", EVERYWHERE)
        assert self.day(*days)[0] == ["2023-05-01"]

    def test_an_older_whole_day_beats_a_newer_part(self):
        assert self.day(("2021-05-01", EVERYWHERE), ("2023-05-01", rectangle(0, 0, 0.9, 1)))[0] == ["2021-05-01"]

    def test_else_the_day_that_covers_most(self):
        parts = ("2021-05-01", rectangle(0, 0, 0.9, 1)), ("2023-05-01", rectangle(0, 0, 0.6, 1))
        assert self.day(*parts)[0] == ["2021-05-01"]

    def test_scenes_of_one_day_add_up(self):
        halves = ("2023-05-01", rectangle(-1, 0, 1.5, 1)), ("2023-05-01", rectangle(0.5, 0, 2, 1))
        days, row = self.day(*halves, ("2021-05-01", EVERYWHERE))
        assert days == ["2023-05-01"] * 2
        assert row["uuid"] == LATTICE.chip_uuid(IX, IY, date(2023, 5, 1))

    def test_overlap_within_a_day_does_not_count_twice(self):
        same = [("2023-05-01", rectangle(0, 0, 0.6, 1))] * 2
        assert self.day(*same, ("2021-05-01", rectangle(0, 0, 0.7, 1)))[0] == ["2021-05-01"]

    def test_the_day_asked_for(self):
        days = ("2021-05-01", EVERYWHERE), ("2023-05-01", EVERYWHERE)
        assert self.day(*days, vhr_acquired="2021-05-01")[0] == ["2021-05-01"]
        other = ("2023-05-01", rectangle(-1, -1, 4, 4))
        message = self.refusal(other, vhr_acquired="2020-01-01")
        assert "2020-01-01" in message

    def test_too_little_or_nothing_is_a_failure(self):
        assert "40%" in self.refusal(("2023-05-01", rectangle(0, 0, 0.4, 1)))
        assert "no VHR scene" in self.refusal(("2023-05-01", rectangle(5, 5, 1, 1)))

    def test_the_least_share_is_a_setting(self):
        part = ("2023-05-01", rectangle(0, 0, 0.4, 1))
        assert self.day(part, min_valid_fraction=0.3)[0] == ["2023-05-01"]

    @pytest.mark.parametrize(
        ("days", "wanted"),
        [
            (["2022-06-01", "2023-05-20", "2023-09-01"], "2023-05-20"),
            (["2023-06-04", "2023-06-24"], "2023-06-04"),
            (["2023-06-14", "2023-06-13"], "2023-06-14"),
            (["2010-01-01"], "2010-01-01"),
        ],
    )
    def test_the_multispectral_day_is_the_nearest(self, days, wanted):
        msi = scenes_of(*[(day, EVERYWHERE) for day in days])
        [row] = planned("labelled_chips", [self.label], msi=msi, profile=ChipProfile()).to_pylist()
        assert [scene.split("/")[0] for scene in row["msi_scene_ids"]] == [wanted]

    def test_a_whole_multispectral_day_beats_a_nearer_part(self):
        half = rectangle(-30, -30, 30.5, 60)
        msi = scenes_of(("2023-06-13", half), ("2022-01-01", EVERYWHERE))
        [row] = planned("labelled_chips", [self.label], msi=msi, profile=ChipProfile()).to_pylist()
        assert [scene.split("/")[0] for scene in row["msi_scene_ids"]] == ["2022-01-01"]

    def test_no_multispectral_scene_is_a_failure(self):
        msi = scenes_of(("2023-06-13", rectangle(14, 14, 16, 16)))
        message = self.refusal(("2023-05-01", EVERYWHERE), msi=msi, profile=ChipProfile())
        assert "multispectral scenes cover 0%" in message

    def test_labels_far_from_all_imagery_stop_the_plan(self):
        with pytest.raises(LabelsOutsideImageryError, match=r"none of 1 labelled chips.*axis order"):
            planned("labelled_chips", [self.label], vhr=scenes_of(("2023-05-01", rectangle(20, 20, 1, 1))))


SPREAD = [rectangle(x + 0.3, y + 0.3, 0.3, 0.2) for x, y in ((0, 0), (1, 4), (6, 2), (5, 7), (2, 8), (9, 9), (8, 4))]


class TestBackground:
    """Chips without labels, by rule."""

    def backgrounds(self, shapes=SPREAD, near=1.0, far=1.0, **changes):
        return planned(
            ["labelled_chips", "background_chips", "chip_plan"],
            shapes,
            background_near_ratio=float(near),
            background_far_ratio=float(far),
            **changes,
        )

    def test_no_label_touches_a_background_chip(self):
        shapes = [*SPREAD, rectangle(3.95, 3.2, 0.1, 0.1), rectangle(3.5, 5.5, 0.51, 0.2)]
        found = self.backgrounds(shapes, near=99, far=99)["background_chips"]
        assert len(found) > 50
        everything = shapely.union_all(shapes)
        shared = [chip.intersection(everything).area for chip in footprints(found)]
        assert max(shared) < 1e-6

    def test_neither_across_the_border_of_two_zones(self):
        """Labels on both sides of 12° E, in one partition: each zone has its own lattice over the same ground."""
        west, east = (
            [shapely.box(lon, 47.75 + 0.0006 * k, lon + 0.0002, 47.7501 + 0.0006 * k) for k in range(count)]
            for lon, count in ((11.9985, 5), (12.0008, 3))
        )
        shapes = [*west, *east]
        results = self.backgrounds(
            shapes,
            near=99,
            far=99,
            epsg=4326,
            vhr=scenes_of(("2023-06-14", shapely.box(11.9, 47.7, 12.1, 47.9)), epsg=4326),
            partition_level=13,
        )
        plan = results["chip_plan"].to_pylist()
        zones = {(row["partition"], row["epsg"]) for row in plan if row["chip_role"] == "labelled"}
        assert any({(cell, 32632), (cell, 32633)} <= zones for cell, _ in zones)
        table = results["background_chips"]
        assert len(table) > 50
        for epsg, outline in zip(table["epsg"].to_pylist(), footprints(table), strict=True):
            shared = [reproject(shape, 4326, epsg).intersection(outline).area for shape in shapes]
            assert max(shared) < 1e-6

    @pytest.mark.parametrize(("near", "far"), [(0, 0), (0.5, 0), (0, 1.5), (2, 1), (0.3, 0.3)])
    def test_numbers_follow_the_labelled_chips_of_each_partition(self, near, far):
        table = self.backgrounds(near=near, far=far, partition_level=14)["chip_plan"]
        rows = table.to_pylist()
        for partition in {row["partition"] for row in rows}:
            roles = [row["chip_role"] for row in rows if row["partition"] == partition]
            labelled = roles.count("labelled")
            assert roles.count("background_far") == round(far * labelled)
            assert roles.count("background_near") == round(near * labelled)
        assert {row["chip_role"] for row in rows if row["chip_role"] != "labelled"} == {
            name for name, ratio in (("background_near", near), ("background_far", far)) if ratio
        }

    def test_near_is_beside_a_labelled_chip_and_far_is_not(self):
        results = self.backgrounds(near=99, far=99)
        labelled = positions(results["labelled_chips"])
        for row in results["background_chips"].to_pylist():
            x, y = row["ix"] - IX, row["iy"] - IY
            beside = any(abs(x - a) <= 1 and abs(y - b) <= 1 for a, b in labelled)
            assert row["chip_role"] == ("background_near" if beside else "background_far")

    def test_the_draw_is_the_same_whatever_the_order_of_labels(self):
        first = self.backgrounds()["background_chips"]
        turned = self.backgrounds(SPREAD[::-1])["background_chips"]
        assert sorted(first["uuid"].to_pylist()) == sorted(turned["uuid"].to_pylist())

    def test_a_larger_ratio_keeps_what_a_smaller_one_drew(self):
        small, large = (set(self.backgrounds(far=far)["background_chips"]["uuid"].to_pylist()) for far in (1, 2))
        assert small < large

    def test_background_lies_on_imagery(self):
        vhr = scenes_of(("2023-06-14", rectangle(-1, -1, 8, 14)))
        shapes = [shape for shape in SPREAD if rectangle(-1, -1, 8, 14).contains(shape)]
        table = self.backgrounds(shapes, near=99, far=99, vhr=vhr)["background_chips"]
        covered = rectangle(-1, -1, 8, 14)
        assert min(chip.intersection(covered).area / SIDE**2 for chip in footprints(table)) > 0.499

    def test_chips_lie_in_the_area_of_interest(self):
        area = reproject(rectangle(-0.5, -0.5, 5, 5), EPSG, 4326)
        table = self.backgrounds(near=99, far=99, aoi_bbox_lonlat=list(area.bounds))["chip_plan"]
        box = shapely.box(*area.bounds)
        assert all(reproject(chip, EPSG, 4326).intersects(box) for chip in footprints(table))
        assert len(table) < 60

    def test_a_partition_full_of_labels_has_no_background(self):
        cell = s2_cell_at(rectangle(0.5, 0.5, 0.1, 0.1), 16)
        whole = reproject(s2_cell_polygon(cell), 4326, EPSG)
        table = self.backgrounds([whole.buffer(SIDE)], near=9, far=9, partition_level=16)["chip_plan"]
        middle = table.filter(pc.equal(table["partition"], pa.scalar(cell, pa.uint64())))
        assert set(middle["chip_role"].to_pylist()) == {"labelled"}
        assert len(middle) > 1


def s2_cell_at(shape, level):
    centre = reproject(shape.centroid, EPSG, 4326)
    return s2cell.lat_lon_to_cell_id(centre.y, centre.x, level)


class TestPlan:
    """The table a run works through."""

    def test_partition_and_split_are_functions_of_the_centre(self):
        table = planned("chip_plan", SPREAD, background_near_ratio=2.0, background_far_ratio=2.0)
        rows = table.to_pylist()
        for row in rows:
            assert row["partition"] == s2cell.lat_lon_to_cell_id(row["lat"], row["lon"], 14)
            assert row["split_cell"] == s2cell.lat_lon_to_cell_id(row["lat"], row["lon"], 16)
        cells = np.array([row["split_cell"] for row in rows], np.uint64)
        assert [row["split"] for row in rows] == [str(name) for name in split_of_cells(cells, RULE)]
        assert [(row["partition"], row["uuid"]) for row in rows] == sorted(
            (row["partition"], row["uuid"]) for row in rows
        )
        assert len({row["uuid"] for row in rows}) == len(rows)
        assert table.schema.equals(module.CHIP_PLAN)

    def test_the_guard_sets_training_chips_aside(self):
        options = {"background_near_ratio": 2.0, "background_far_ratio": 2.0}
        free = planned("chip_plan", SPREAD, **options)
        rule = SplitRule(level=16, salt=3, fractions=(0.6, 0.2, 0.2), guard_m=60.0)
        guarded = planned("chip_plan", SPREAD, rule=rule, guard_m=60.0, **options)
        assert free["uuid"].to_pylist() == guarded["uuid"].to_pylist()
        assert "guard" not in free["split"].to_pylist()
        assert "guard" in guarded["split"].to_pylist()
        splits, outlines = guarded["split"].to_pylist(), footprints(guarded)
        for a, one in zip(splits, outlines, strict=True):
            for b, other in zip(splits, outlines, strict=True):
                if a != b and "guard" not in (a, b):
                    assert one.distance(other) >= 60 - 1e-6

    def test_the_guard_reaches_across_the_border_of_two_zones(self):
        shapes = [
            shapely.box(lon, 47.71 + 0.0014 * k, lon + 0.0001, 47.7101 + 0.0014 * k)
            for k in range(24)
            for lon in (11.9995, 12.0004)
        ]
        rule = SplitRule(level=15, salt=5, fractions=(0.4, 0.3, 0.3), guard_m=60.0)
        vhr = scenes_of(("2023-06-14", shapely.box(11.9, 47.7, 12.1, 47.9)), epsg=4326)
        table = planned("chip_plan", shapes, epsg=4326, vhr=vhr, rule=rule, guard_m=60.0)
        epsgs, splits = table["epsg"].to_pylist(), table["split"].to_pylist()
        outlines = [reproject(outline, epsg, EPSG) for epsg, outline in zip(epsgs, footprints(table), strict=True)]
        assert set(epsgs) == {32632, 32633}
        assert len(set(splits) - {"guard"}) > 1
        for a, one in zip(splits, outlines, strict=True):
            for b, other in zip(splits, outlines, strict=True):
                if a != b and "guard" not in (a, b):
                    assert one.distance(other) >= 60 - 0.1

    def inputs_of(self, shapes, **changes):
        table = planned("chip_plan", shapes, **changes)
        return {(row["ix"] - IX, row["iy"] - IY): row["input_set"] for row in table.to_pylist()}

    def test_inputs_change_where_labels_or_scenes_do(self):
        before = self.inputs_of(SPREAD)
        assert self.inputs_of(SPREAD) == before
        moved = [shapely.affinity.translate(SPREAD[0], 1.0), *SPREAD[1:]]
        assert {at for at, key in self.inputs_of(moved).items() if key != before[at]} == {(0, 0)}
        more = [*SPREAD, rectangle(6.7, 2.7, 0.1, 0.1)]
        assert {at for at, key in self.inputs_of(more).items() if key != before[at]} == {(6, 2)}
        scenes = scenes_of(("2023-06-14", EVERYWHERE))
        other = replaced(scenes, checksum=["another file"])
        assert not set(self.inputs_of(SPREAD, vhr=other).values()) & set(before.values())

    def test_inputs_change_where_points_do(self):
        before = self.inputs_of(SPREAD)
        on, off = (
            shapely.MultiPoint([SPREAD[0].centroid, shift]) for shift in ((LEFT + 1, BOTTOM + 1), (LEFT, BOTTOM))
        )
        found = [self.inputs_of(SPREAD, points={0: pair}) for pair in ((on,), (None, on), (on, off), (off, on))]
        assert len({inputs[0, 0] for inputs in [before, *found]}) == 5
        for inputs in found:
            assert {at for at, key in inputs.items() if key != before[at]} == {(0, 0)}

    def test_prompts_without_points_have_the_hash_they_always_had(self):
        """Stores of earlier schema versions keep their chips: the formula of then, written out."""
        scenes = scenes_of(("2023-06-14", EVERYWHERE))
        found = planned(["chip_plan", "prompts"], SPREAD, vhr=scenes)
        [file] = scenes["checksum"].to_pylist()
        for row in found["chip_plan"].to_pylist():
            own = [prompt for prompt in found["prompts"].to_pylist() if prompt["uuid"] == row["uuid"]]
            asked = sorted(prompt["prompt_id"] + prompt["geometry"].hex() for prompt in own)
            assert row["input_set"] == digest([asked, [file], []])

    def test_points_go_with_every_prompt_of_their_label(self):
        across, on = (
            rectangle(0.8, 0.3, 0.4, 0.1),
            shapely.MultiPoint([(LEFT + 70, BOTTOM + 25), (LEFT + 80, BOTTOM + 26)]),
        )
        prompts = planned("prompts", [across], points={0: (on,)}).to_pylist()
        assert len(prompts) == 2
        for row in prompts:
            again = reproject(shapely.from_wkb(row["positive_points"]), 4326, EPSG)
            np.testing.assert_allclose(shapely.get_coordinates(again), shapely.get_coordinates(on), atol=1e-7)
            assert row["negative_points"] is None

    def test_prompts_of_one_label_on_two_chips_differ(self):
        prompts = planned("prompts", [rectangle(0.8, 0.3, 0.4, 0.1)])
        assert len(set(prompts["prompt_id"].to_pylist())) == len(set(prompts["uuid"].to_pylist())) == len(prompts) == 2
        again = planned("prompts", [rectangle(0.8, 0.3, 0.4, 0.1)])
        assert again["prompt_id"].to_pylist() == prompts["prompt_id"].to_pylist()

    def test_a_new_rule_fills_every_split(self, tmp_path):
        table = planned("chip_plan", SPREAD, rule=None, store=str(tmp_path / "new"))
        assert set(table["split"].to_pylist()) == {"train", "val", "test"}

    def test_a_store_keeps_its_rule_and_refuses_another(self):
        given_as = SETTINGS | {"chip_profile": RGB, "changed_ground": None}
        known = {"stored_split_rule": RULE, "labelled_chips": planned("labelled_chips", SPREAD)}
        assert DRIVER.execute(["split_rule"], inputs=given_as, overrides=known)["split_rule"] == RULE
        for change in ({"split_level": 15}, {"guard_m": 5.0}, {"split_fractions": [0.7, 0.2, 0.1]}):
            with pytest.raises(ConfigError, match="keep the store's rule or use another store"):
                DRIVER.execute(["split_rule"], inputs=given_as | change, overrides=known)
