"""Judged detections through the command line: chips, candidates, promotion, gold, and builds after them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import rasterio.features
import shapely

from dataflows import discovery_config
from dataflows.__main__ import main
from dataflows.backfill import run_backfill
from store import ducklake, generations, lance_io, promotion, tags
from store.backfill_schemas import mask_columns
from support import mini_region
from support.judged_rows import detection, write_detections
from support.kill_points import Kill, Point
from support.killed_runs import settings_file
from support.run_process import RunProcess
from utils.errors import NoGoldError, PromotionError, SearchError
from utils.geo import reproject
from utils.types import IGNORE

GONE = ("3", "4")
"""Arrays that the imagery shows and no label knows."""


def ground(x: float, y: float, w: float, h: float) -> shapely.Polygon:
    """A box, metres from the region's corner."""
    left, bottom = mini_region.LEFT + x, mini_region.BOTTOM + y
    return shapely.box(left, bottom, left + w, bottom + h)


FOUND = ground(60, 230, 18, 12)  # on train ground without a chip, and a sliver of test ground
ON_TEST = ground(250, 250, 14, 10)
CONFIRMED = ground(20.3, 30.2, 12, 8)
GRASS = ground(50, 50, 8, 6)  # on the train chip of the first label
MEADOW = ground(180, 20, 9, 7)  # on train ground without a chip
DOUBTFUL = ground(10, 60, 6, 6)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A region whose labels lack two arrays, built once."""
    root = tmp_path_factory.mktemp("backfill")
    region = mini_region.make(root / "region", background_near_ratio=0.0, background_far_ratio=0.0)
    mini_region.change(region, "DELETE FROM lake.pv WHERE id IN ('3', '4')")
    assert main(["run", "--config", str(settings_file(region)), "--json"]) == 0
    (region.root / "discover.yaml").write_text("flow: discover\nbuild: flow.json\n")
    label = lance_io.scan(region.settings["store"], "prompts", ["label_id"]).sort_by("label_id")["label_id"][0].as_py()
    write_detections(
        region.settings["store"],
        [
            detection(FOUND, "accept"),
            detection(ON_TEST, "accept"),
            detection(CONFIRMED, "accept", label_id=label, match_iou=0.9),
            detection(GRASS, "reject"),
            detection(MEADOW, "reject"),
            detection(DOUBTFUL, "review"),
        ],
    )
    return region


def own_copy(region, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(region.settings["store"], store)
    return mini_region.MiniRegion(region.root, {**region.settings, "store": str(store)})


@pytest.fixture
def region(built, tmp_path):
    """The built region with a store of its own."""
    return own_copy(built, tmp_path)


@pytest.fixture(scope="module")
def backfilled(built, tmp_path_factory):
    """The region with a generation, to look at or to copy."""
    region = own_copy(built, tmp_path_factory.mktemp("backfilled"))
    assert main(command(region, "backfill", "--json")) == 0
    return region


@pytest.fixture
def second(backfilled, tmp_path):
    """The region with a generation and a store of its own."""
    return own_copy(backfilled, tmp_path)


def command(region, name, *more):
    return [name, "--config", str(region.root / "discover.yaml"), "--store", region.settings["store"], *more]


def config_of(region, **changes):
    return discovery_config.load(region.root / "discover.yaml", store=region.settings["store"], **changes)


def rows_of(store, table="training_data", where=None, columns=None):
    names = columns or [name for name in lance_io.open_table(store, table).schema.names if "image_chip" not in name]
    return lance_io.scan(store, table, names, where).to_pylist()


def chip_at(store, x, y, table="training_data"):
    """The row of the chip under a place, with its mask as an array."""
    point = shapely.Point(mini_region.LEFT + x, mini_region.BOTTOM + y)
    for row in rows_of(store, table):
        a, _, left, _, e, top = row["vhr_transform"]
        if shapely.box(left, top + 256 * e, left + 256 * a, top).contains(point):
            mask = row["generated_mask"]
            return row | {"mask": None if mask is None else np.frombuffer(mask, np.uint8).reshape(256, 256)}
    return None


def burnt(outline, row):
    a, b, c, d, e, f = row["vhr_transform"]
    return rasterio.features.rasterize(
        [outline], out_shape=(256, 256), transform=rasterio.Affine(a, b, c, d, e, f), dtype="uint8"
    ).astype(bool)


def candidates(store):
    return {row["uuid"]: row for row in rows_of(store, "candidates")}


def state(store):
    """What a store says, without runs and times."""
    found = {}
    for table in ("training_data", "masks", "prompts", "candidates"):
        rows = rows_of(store, table)
        for row in rows:
            for name in ("run_id", "created_at", "label_catalog"):
                row.pop(name, None)
        found[table] = sorted(rows, key=str)
    return found


def test_nothing_is_taught_before_promotion(built, backfilled):
    before = {row["uuid"]: row for row in rows_of(built.settings["store"])}
    after = {row["uuid"]: row for row in rows_of(backfilled.settings["store"])}
    assert {uuid: after[uuid] for uuid in before} == before
    fresh = [row for uuid, row in after.items() if uuid not in before]
    assert sorted(row["chip_role"] for row in fresh) == ["discovered", "hard_negative"]
    for row in fresh:
        assert row["split"] == "train"
        assert row["generated_mask"] is row["msi_mask"] is row["pv_fraction"] is None
        assert row["weight"] == 1.0


def test_test_ground_gets_no_machine_mask(backfilled):
    store = backfilled.settings["store"]
    splits = {row["uuid"]: row["split"] for row in rows_of(store, columns=["uuid", "split"])}
    assert {splits[uuid] for uuid in candidates(store)} == {"train"}
    assert chip_at(store, 257, 255) is None
    held = rows_of(store, "prompts", "dataset = 'detections'")
    assert {splits[row["uuid"]] for row in held} == {"train"}


def test_accepted_is_pv_rejected_is_background_undecided_is_ignored(backfilled):
    store = backfilled.settings["store"]
    made = candidates(store)
    found, first, meadow = chip_at(store, 65, 235), chip_at(store, 26, 34), chip_at(store, 184, 24)

    def mask_of(row):
        return np.frombuffer(made[row["uuid"]]["generated_mask"], np.uint8).reshape(256, 256)

    truth = burnt(FOUND, found)
    pv = mask_of(found) == 1
    assert (pv & truth).sum() / (pv | truth).sum() > 0.8
    assert made[found["uuid"]]["base_generation"] is None
    assert made[found["uuid"]]["weight"] == 1.0
    assert (mask_of(first)[burnt(GRASS, first)] == 0).all()
    assert (mask_of(first)[burnt(DOUBTFUL, first)] == IGNORE).all()
    assert made[first["uuid"]]["weight"] == made[meadow["uuid"]]["weight"] == 2.0
    assert not mask_of(meadow).any()
    assert made[meadow["uuid"]]["n_prompts"] == 0


def test_columns_of_a_candidate_follow_from_its_mask(backfilled):
    store = backfilled.settings["store"]
    for row in candidates(store).values():
        mask = np.frombuffer(row["generated_mask"], np.uint8)
        known = mask != IGNORE
        assert row["pv_fraction"] == pytest.approx((mask == 1).sum() / known.sum())
        fractions = np.frombuffer(row["msi_mask"], np.uint8).reshape(64, 64)
        # a multispectral pixel is as large as 33.3 × 33.3 VHR pixels
        pv_m2 = (mask == 1).sum() * 0.09
        assert (fractions[fractions != IGNORE] / 254).sum() * 100 <= pv_m2 + 5
        assert row["index_inside_px"] == pytest.approx((fractions[fractions != IGNORE] / 254).sum(), abs=0.01)
        assert row["n_prompts"] == row["n_accepted"] + row["n_review"] + row["n_rejected"]


def test_a_second_run_makes_nothing(second, capsys):
    store = second.settings["store"]
    before = {name: lance_io.open_table(store, name).version for name in ("training_data", "masks", "candidates")}
    assert main(command(second, "backfill", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["chips"], told["chips_pending"], told["generation"]) == (3, 0, 1)
    assert (told["accepted"], told["rejected"], told["undecided"], told["held_out"]) == (3, 2, 1, 1)
    assert (told["new_chips"], told["added"], told["hard_negatives"]) == (2, 1, 2)
    assert {name: lance_io.open_table(store, name).version for name in before} == before


def test_other_verdicts_are_another_generation(second):
    store = second.settings["store"]
    write_detections(store, [detection(DOUBTFUL, "reject")])
    summary = run_backfill(config_of(second))
    assert summary.generation == 2
    assert {row.generation for row in generations.generations(store)} == {0, 1, 2}
    assert set(lance_io.scan(store, "candidates", ["generation"])["generation"].to_pylist()) == {1, 2}


def test_the_same_object_of_two_searches_is_one_prompt(second):
    store = second.settings["store"]
    promotion.promote(store, 1, "one")
    shifted = shapely.affinity.translate(FOUND, 0.4, 0.3)
    write_detections(store, [detection(shifted, "accept", search="second")])
    summary = run_backfill(config_of(second), search_id="second")
    assert (summary.generation, summary.added, summary.new_chips) == (2, 0, 0)
    assert len(rows_of(store, "prompts", "dataset = 'detections'")) == 1


def test_what_was_accepted_and_is_rejected_counts_no_longer(second):
    store = second.settings["store"]
    promotion.promote(store, 1, "one")
    write_detections(store, [detection(shapely.affinity.translate(FOUND, 0.4, 0.3), "reject", search="second")])
    assert run_backfill(config_of(second), search_id="second").generation == 2
    promotion.promote(store, 2, "two")
    row = chip_at(store, 65, 235)
    assert (row["mask"] == 0).all()
    assert (row["generation"], row["weight"], row["n_accepted"]) == (2, 2.0, 0)


def test_no_detections_lead_to_no_generation(region, capsys):
    store = region.settings["store"]
    shutil.rmtree(Path(store) / "detections.lance")
    assert main(command(region, "backfill", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["generation"], told["search_id"], told["chips"]) == (None, None, 0)
    with pytest.raises(PromotionError, match="nothing to promote"):
        promotion.promote(store, 1, "none")
    write_detections(store, [detection(DOUBTFUL, "review"), detection(ON_TEST, "accept")])
    summary = run_backfill(config_of(region))
    assert (summary.generation, summary.held_out, summary.exit_code) == (None, 1, 0)


def test_detections_that_nobody_judged_are_refused(region, capsys):
    write_detections(region.settings["store"], [detection(GRASS, None, search="raw")])
    with pytest.raises(SearchError, match="validate"):
        run_backfill(config_of(region), search_id="raw")
    assert main(command(region, "backfill", "--search", "raw")) == 2
    assert "SearchError" in capsys.readouterr().err


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(Point("CommitBuffer.flush > write masks", 1, "after"), marks=pytest.mark.slow),
        Point("CommitBuffer.flush > write candidates", 1, "before"),
        pytest.param(Point("CommitBuffer.flush > commit training_data", 1, "before"), marks=pytest.mark.slow),
        pytest.param(Point("CommitBuffer.flush", 1, "after"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_killed_backfill_ends_as_one_that_was_not(built, backfilled, tmp_path, point):
    region = own_copy(built, tmp_path)
    run = RunProcess(command(region, "backfill", "--json"), tmp_path / "run", kill=Kill(point=point, manner="SIGKILL"))
    assert run.wait() != 0
    assert main(command(region, "backfill", "--json")) == 0
    assert state(region.settings["store"]) == state(backfilled.settings["store"])
    statuses = {row["status"] for row in rows_of(region.settings["store"], "runs", "flow = 'backfill'")}
    assert statuses == {"killed", "done"}


def test_a_candidate_table_is_the_promoted_table_without_its_pixels(second):
    store = second.settings["store"]
    version = lance_io.open_table(store, "training_data").version
    name = promotion.candidate_table(store, 1)
    assert promotion.candidate_table(store, 1) == name
    beside = lance_io.open_table(store, name)
    size = sum(path.stat().st_size for path in Path(lance_io.table_uri(store, name)).rglob("*") if path.is_file())
    assert size < 0.15 * beside.count_rows() * 3 * 256 * 256
    assert lance_io.open_table(store, "training_data").version == version
    pixels = beside.to_table(columns=["uuid", "vhr_image_chip"]).sort_by("uuid")
    assert pixels == lance_io.open_table(store, "training_data").to_table(columns=["uuid", "vhr_image_chip"]).sort_by(
        "uuid"
    )
    held = rows_of(store, name)
    assert promotion.drop_candidate_table(store, 1)
    assert not promotion.drop_candidate_table(store, 1)
    promotion.promote(store, 1, "one")
    assert sorted(held, key=str) == sorted(rows_of(store), key=str)


def test_promotion_writes_little_and_only_once(second, capsys):
    store = second.settings["store"]
    before = {row["uuid"]: row for row in rows_of(store)}
    assert main(command(second, "promote", "--generation", "1", "--tag", "one", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["chips"]) == (3, 3)
    table = lance_io.open_table(store, "training_data")
    pixels = table.count_rows() * (3 * 256 * 256 + 12 * 64 * 64 * 2)
    assert told["bytes_written"] <= 0.1 * pixels  # 5 rows; the share falls with the size of the table
    changed = set(mask_columns(table.schema))
    wanted = candidates(store)
    for row in rows_of(store):
        for name, value in row.items():
            expected = wanted.get(row["uuid"], {}) if name in changed else {}
            assert value == expected.get(name, before[row["uuid"]][name]), name
    version = table.version
    assert main(command(second, "promote", "--generation", "1", "--tag", "one", "--json")) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["rows"], again["version_before"]) == (0, told["version_before"])
    assert lance_io.open_table(store, "training_data").version == version


def test_rollback_restores_and_can_be_promoted_again(second, capsys):
    store = second.settings["store"]
    before = rows_of(store)
    promotion.promote(store, 1, "one")
    assert main(command(second, "rollback", "--tag", "one", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3
    assert rows_of(store) == before
    assert promotion.promote(store, 1, "one").rows == 3
    # what is committed after a promotion survives its rollback
    other = chip_at(store, 116, 44)["uuid"]
    lance_io.mark(store, "training_data", [other], {"h3_cell": "CAST(7 AS BIGINT UNSIGNED)"})
    assert promotion.rollback(store, "one").rows == 3
    rows = {row["uuid"]: row for row in rows_of(store)}
    assert rows.pop(other)["h3_cell"] == 7
    assert sorted(rows.values(), key=str) == sorted((row for row in before if row["uuid"] != other), key=str)


def test_chips_that_changed_since_are_refused(second):
    store = second.settings["store"]
    uuid = chip_at(store, 26, 34)["uuid"]
    lance_io.mark(store, "training_data", [uuid], {"input_set": "'other'"})
    with pytest.raises(PromotionError, match="1 chips have other labels or scenes"):
        promotion.promote(store, 1, "one")
    with pytest.raises(PromotionError):
        promotion.candidate_table(store, 1)
    assert "one" not in {found.tag for found in tags.list_tags(store, "training_data")}
    lance_io.mark(store, "training_data", [uuid], {"mask_source": "'reviewed'"})
    lance_io.delete(store, "training_data", [chip_at(store, 65, 235)["uuid"]])
    with pytest.raises(PromotionError, match="not in the table any more"):
        promotion.promote(store, 1, "one")


@pytest.mark.parametrize("promoted", [False, True])
def test_a_build_leaves_the_backfill_alone(second, promoted):
    store = second.settings["store"]
    if promoted:
        promotion.promote(store, 1, "one")
    before = state(store)
    file = settings_file(second)
    assert main(["run", "--config", str(file), "--store", store, "--json"]) == 0
    assert state(store) == before
    assert main(["run", "--config", str(file), "--store", store, "--only-stale", "--json"]) == 0
    # background drawn on the ground of a hard negative would teach what it teaches; on a discovered chip it must not
    assert main(["run", "--config", str(file), "--store", store, "--set", "background_far_ratio=5", "--json"]) in (0, 3)
    kept = {row["uuid"]: row for row in rows_of(store)}
    for row in before["training_data"]:
        for name in ("generated_mask", "chip_role", "generation", "input_set"):
            assert kept[row["uuid"]][name] == row[name]


def test_gold_is_the_truth_rasterised(region, tmp_path, capsys):
    store = region.settings["store"]
    truth = tmp_path / "truth.geojson"
    late = shapely.box(mini_region.LEFT + 160, mini_region.BOTTOM + 90, mini_region.LEFT + 170, mini_region.BOTTOM + 99)
    boxes = [(box, None) for box in mini_region.pv_boxes()] + [(late, "2024-01-01")]
    features = [
        {
            "type": "Feature",
            "properties": {} if built is None else {"built": built},
            "geometry": shapely.geometry.mapping(reproject(box, mini_region.EPSG, 4326)),
        }
        for box, built in boxes
    ]
    truth.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    before = {row["uuid"]: row for row in rows_of(store)}
    assert main(command(region, "gold", "--truth", str(truth), "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["chips"], told["written"], told["with_pv"]) == (1, 1, 1)
    row = chip_at(store, 195, 144)
    assert row["split"] == "test"
    wanted = burnt(mini_region.pv_boxes()[2], row)
    assert ((row["mask"] == 1) == wanted).mean() > 0.9999  # outlines go through degrees
    assert (row["mask"] != IGNORE).all()
    assert (row["mask_source"], row["generation"]) == ("gold", 0)
    assert row["pv_fraction"] == pytest.approx((row["mask"] == 1).mean())
    written = {"mask", *mask_columns(lance_io.open_table(store, "training_data").schema)}
    assert all(row[name] == before[row["uuid"]][name] for name in row if name not in written)
    assert main(command(region, "gold", "--truth", str(truth), "--json")) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 1
    # labels of the chip change, and the truth stays
    mini_region_label = reproject(ground(200, 100, 8, 8), mini_region.EPSG, 4326).wkt
    private = tmp_path / "lake"
    shutil.copytree(region.root, private)
    moved = mini_region.MiniRegion(private, {**region.settings, "catalog": str(private / "labels.ducklake")})
    with ducklake.connect(moved.settings["catalog"], write=True) as connection:
        connection.execute(f"INSERT INTO lake.pv VALUES ('late', ST_GeomFromText('{mini_region_label}'))")
    assert main(["run", "--config", str(settings_file(moved)), "--json"]) == 0
    after = chip_at(store, 195, 144)
    assert after["mask_source"] == "gold"
    assert np.array_equal(after["mask"], row["mask"])


def test_without_gold_the_gate_refuses(second, capsys):
    assert main(command(second, "gate", "--generation", "1")) == 2
    told = capsys.readouterr().err
    assert "NoGoldError" in told
    assert "gold --truth" in told
    assert issubclass(NoGoldError, PromotionError)
    assert not rows_of(second.settings["store"], where="generation = 1 AND generated_mask IS NOT NULL")


def test_generations_compare_in_one_scan(second, capsys):
    arguments = ["compare-masks", "0", "1", "--store", second.settings["store"], "--json"]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["overall"]["pairs"], told["overall"]["only_second"]) == (1, 1)
    assert told["overall"]["iou"] > 0.8


def test_schema_of_candidates_holds_what_training_data_takes(second):
    table = lance_io.open_table(second.settings["store"], "training_data").schema
    held = lance_io.open_table(second.settings["store"], "candidates").schema
    assert all(held.field(name).type == table.field(name).type for name in mask_columns(table))
    assert isinstance(table, pa.Schema)
