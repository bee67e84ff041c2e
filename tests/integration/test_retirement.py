"""Deleted, moved and restored labels: masks are retired, chips are made again or taken back, nothing else moves."""

import pytest
import shapely

from dataflows import drivers
from dataflows.config import from_mapping
from store import lance_io
from support import mini_region
from support.mini_region import change
from utils.geo import reproject

CHIPS = ["uuid", "chip_role", "input_set", "generated_mask", "n_prompts", "split", "created_at"]


@pytest.fixture
def region(tmp_path):
    """A finished store of five labels; background chips beside and around them."""
    made = mini_region.make(tmp_path / "region", background_near_ratio=1.0, background_far_ratio=1.0)
    assert drivers.run("build", made.settings).exit_code == 0
    return made


def rows(region, table, columns, where=None):
    return lance_io.scan(region.settings["store"], table, columns, where).to_pylist()


def chips(region):
    return {row["uuid"]: row for row in rows(region, "training_data", CHIPS)}


def prompts(region):
    found = rows(region, "prompts", ["prompt_id", "uuid", "label_id", "retired_at", "retired_snapshot"])
    return {row["prompt_id"]: row for row in found}


def masks_of(region, label_id):
    ids = {key for key, row in prompts(region).items() if row["label_id"] == label_id}
    found = rows(region, "masks", ["prompt_id", "retired_at", "retired_snapshot"])
    return [row for row in found if row["prompt_id"] in ids]


def run(region, **options):
    return drivers.run("build", region.settings, **options)


def test_a_deleted_label_is_retired_with_its_masks_and_chips(region):
    before = chips(region)
    gone = {row["uuid"] for row in prompts(region).values() if row["label_id"] == "pv/0"}
    alone = {uuid for uuid in gone if before[uuid]["n_prompts"] == 1}
    _, snapshot = change(region, "DELETE FROM lake.pv WHERE id = '0'")
    plan = drivers.plan_build(from_mapping(region.settings))
    assert len(plan.retirement.prompt_ids) == len(gone)
    assert set(plan.retirement.chips) >= gone
    assert chips(region) == before
    summary = run(region)
    assert (summary.prompts_retired, summary.masks_retired) == (len(gone), len(gone))
    after = chips(region)
    labelled_now = {uuid for uuid, row in after.items() if row["chip_role"] == "labelled"}
    assert not alone & labelled_now
    retired = {row["label_id"] for row in prompts(region).values() if row["retired_at"] is not None}
    assert retired == {"pv/0"}
    assert {row["retired_snapshot"] for row in masks_of(region, "pv/0")} == {snapshot}
    assert all(row["retired_at"] is None for row in masks_of(region, "pv/1"))
    untouched = before.keys() - gone
    assert {uuid: after[uuid] for uuid in untouched} == {uuid: before[uuid] for uuid in untouched}


def test_a_second_run_has_nothing_left_to_do(region):
    change(region, "DELETE FROM lake.pv WHERE id = '0'")
    run(region)
    version = lance_io.open_table(region.settings["store"], "training_data").version
    summary = run(region)
    assert (summary.prompts_retired, summary.chips_retired, summary.chips_written) == (0, 0, 0)
    assert lance_io.open_table(region.settings["store"], "training_data").version == version


def test_a_restored_label_counts_again_and_gives_the_same_rows(region):
    before = chips(region)
    before_prompts = prompts(region)
    snapshot, _ = change(region, "DELETE FROM lake.pv WHERE id = '0'")
    run(region)
    change(region, f"INSERT INTO lake.pv SELECT * FROM lake.pv AT (VERSION => {snapshot}) WHERE id = '0'")
    run(region)
    assert prompts(region) == before_prompts
    assert all(row["retired_at"] is None for row in masks_of(region, "pv/0"))
    same = ("chip_role", "generated_mask", "n_prompts", "split")
    after = chips(region)
    labelled = {uuid: row for uuid, row in before.items() if row["chip_role"] == "labelled"}
    assert {uuid: [after[uuid][name] for name in same] for uuid in labelled} == {
        uuid: [row[name] for name in same] for uuid, row in labelled.items()
    }


def test_a_label_moved_onto_background_takes_the_chip_over(region):
    before = chips(region)
    labelled = {row["uuid"] for row in prompts(region).values()}
    background = lance_io.scan(
        region.settings["store"], "training_data", ["uuid", "footprint"], "chip_role != 'labelled'"
    ).to_pylist()
    centre = shapely.from_wkb(background[0]["footprint"]).centroid
    place = shapely.box(centre.x - 1e-4, centre.y - 5e-5, centre.x + 1e-4, centre.y + 5e-5)
    change(region, f"UPDATE lake.pv SET geometry = ST_GeomFromText('{place.wkt}') WHERE id = '2'")
    run(region)
    after = chips(region)
    assert after[background[0]["uuid"]]["chip_role"] == "labelled"
    moved = {row["uuid"] for row in prompts(region).values() if row["label_id"] == "pv/2" and row["retired_at"] is None}
    assert background[0]["uuid"] in moved
    stale = {
        uuid
        for uuid in labelled - moved
        if uuid in after and after[uuid]["generated_mask"] != before[uuid]["generated_mask"]
    }
    assert all(after[uuid]["input_set"] != before[uuid]["input_set"] for uuid in stale)


def test_a_sliver_on_background_takes_the_chip_back(region):
    background = lance_io.scan(
        region.settings["store"], "training_data", ["uuid", "vhr_epsg", "vhr_transform"], "chip_role != 'labelled'"
    ).to_pylist()
    [a, _, left, _, e, top] = background[0]["vhr_transform"]
    edge = shapely.box(left - 20, top + 128 * e, left + 0.5, top + 100 * e)
    lonlat = reproject(edge, background[0]["vhr_epsg"], 4326)
    change(region, f"INSERT INTO lake.pv VALUES ('sliver', ST_GeomFromText('{lonlat.wkt}'))")
    summary = run(region)
    assert background[0]["uuid"] not in chips(region)
    assert summary.chips_retired >= 1
    assert a > 0


def test_chips_a_person_drew_stay(region):
    store = region.settings["store"]
    uuids = {row["uuid"] for row in prompts(region).values() if row["label_id"] == "pv/0"}
    lance_io.mark(store, "training_data", sorted(uuids), {"mask_source": "'reviewed'"})
    before = chips(region)
    change(region, "DELETE FROM lake.pv WHERE id = '0'")
    summary = run(region)
    after = chips(region)
    assert {uuid: after[uuid] for uuid in uuids} == {uuid: before[uuid] for uuid in uuids}
    assert summary.prompts_retired == 0


def test_labels_of_another_lake_are_left_alone(region, tmp_path):
    other = tmp_path / "other" / "elsewhere.ducklake"
    other.parent.mkdir()
    mini_region.write_labels(other, [("box", reproject(mini_region.pv_boxes()[4], mini_region.EPSG, 4326))])
    before = prompts(region)
    summary = drivers.run("build", region.settings | {"catalog": str(other)})
    assert summary.prompts_retired == 0
    assert {key: row["retired_at"] for key, row in prompts(region).items() if key in before} == dict.fromkeys(before)


def test_outside_the_area_nothing_is_judged(region):
    far = shapely.from_wkb(
        lance_io.scan(region.settings["store"], "prompts", ["geometry"], "label_id = 'pv/4'")["geometry"][0].as_py()
    )
    change(region, "DELETE FROM lake.pv WHERE id = '0'")
    west, south, east, north = far.bounds
    summary = drivers.run("build", region.settings | {"aoi_bbox_lonlat": [west, south, east, north]})
    assert (summary.prompts_retired, summary.chips_retired) == (0, 0)
    assert all(row["retired_at"] is None for row in masks_of(region, "pv/0"))
    assert run(region).prompts_retired > 0


def test_killed_between_marking_and_deleting(region, monkeypatch):
    change(region, "DELETE FROM lake.pv WHERE id = '0'")
    real = lance_io.delete

    def killed(uri, name, *arguments, **options):
        if name == "training_data":
            raise KeyboardInterrupt
        return real(uri, name, *arguments, **options)

    monkeypatch.setattr(lance_io, "delete", killed)
    assert run(region).status == "interrupted"
    monkeypatch.setattr(lance_io, "delete", real)
    left = {row["uuid"] for row in prompts(region).values() if row["label_id"] == "pv/0"}
    assert left & chips(region).keys()
    summary = run(region)
    assert (summary.prompts_retired, summary.chips_retired > 0) == (0, True)
    made_from = {(row["uuid"], row["input_set"]) for row in chips(region).values()}
    spoilt = rows(region, "prompts", ["uuid", "input_set"], "retired_at IS NOT NULL")
    assert spoilt
    assert not made_from & {(row["uuid"], row["input_set"]) for row in spoilt}


def test_undated_labels_that_were_not_asked_for_stay(region):
    change(
        region, "ALTER TABLE lake.pv ADD COLUMN day DATE", "UPDATE lake.pv SET day = DATE '2020-05-01' WHERE id = '1'"
    )
    table = {"table": "pv", "id": "id", "geometry": "geometry", "installed_on": "day"}
    asked = region.settings | {"labels": [table], "installed": ["2019-01-01", None]}
    plan = drivers.plan_build(from_mapping(asked | {"keep_undated": False}))
    assert plan.labels == 1
    assert not plan.retirement


def test_a_prompt_whose_chip_is_gone_is_retired_by_an_incremental_run_too(region):
    kept = {row["uuid"] for row in prompts(region).values() if row["label_id"] == "pv/0"}
    lance_io.delete(region.settings["store"], "training_data", sorted(kept))
    since, _ = change(region, "DELETE FROM lake.pv WHERE id = '0'")
    plan = drivers.plan_build(from_mapping(region.settings), since_snapshot=since)
    assert set(plan.retirement.prompt_ids) == {key for key, row in prompts(region).items() if row["label_id"] == "pv/0"}
