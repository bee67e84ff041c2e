"""``--since-snapshot``: only chips that labels changed on are planned, and the store ends as a whole plan leaves it."""

import json

import pytest
import shapely

from dataflows import drivers
from dataflows.__main__ import main
from dataflows.config import from_mapping
from store import ducklake, lance_io
from support import mini_region
from support.mini_region import change
from utils.errors import ConfigError, LabelTableError
from utils.geo import reproject

COMPARED = ["uuid", "chip_role", "input_set", "generated_mask", "vhr_image_chip", "n_prompts", "split", "split_cell"]


def box_at(x, y, width=12, height=9):
    """A box label, metres east and north of the region's corner, as SQL."""
    left, bottom = mini_region.LEFT + x, mini_region.BOTTOM + y
    shape = reproject(shapely.box(left, bottom, left + width, bottom + height), mini_region.EPSG, 4326)
    return f"ST_GeomFromText('{shape.wkt}')"


EDITS = (
    "DELETE FROM lake.pv WHERE id = '0'",
    f"UPDATE lake.pv SET geometry = {box_at(262, 40)} WHERE id = '1'",
    f"INSERT INTO lake.pv VALUES ('new', {box_at(40, 120)})",
)


def labelled(store):
    rows = lance_io.scan(store, "training_data", COMPARED, "chip_role = 'labelled'").to_pylist()
    return {row["uuid"]: row for row in rows}


@pytest.fixture
def region(tmp_path):
    made = mini_region.make(tmp_path / "region", background_near_ratio=0.0, background_far_ratio=0.0)
    assert drivers.run("build", made.settings).exit_code == 0
    return made


def test_as_a_whole_plan_leaves_it(region, tmp_path):
    store = region.settings["store"]
    untouched = labelled(store)
    since, until = change(region, *EDITS)
    config = from_mapping(region.settings)
    plan = drivers.plan_build(config, since_snapshot=since)
    whole = drivers.plan_build(config)
    assert 0 < len(plan.chips) < len(whole.chips)
    assert set(plan.pending["uuid"].to_pylist()) == set(whole.pending["uuid"].to_pylist())
    assert plan.retirement == whole.retirement
    assert plan.label_snapshot == until
    summary = drivers.run("build", config, since_snapshot=since)
    assert summary.exit_code == 0
    assert summary.chips_written == len(plan.pending)
    after = labelled(store)
    fresh = tmp_path / "fresh"
    drivers.run("build", region.settings | {"store": str(fresh)})
    expected = labelled(fresh)
    assert after.keys() == expected.keys()
    same = [name for name in COMPARED if not name.startswith("split")]
    for uuid, row in after.items():
        assert [row[name] for name in same] == [expected[uuid][name] for name in same]
    kept = untouched.keys() & after.keys() - set(plan.chips["uuid"].to_pylist())
    assert kept
    assert {uuid: after[uuid] for uuid in kept} == {uuid: untouched[uuid] for uuid in kept}
    again = drivers.plan_build(config)
    assert (len(again.pending), bool(again.retirement)) == (0, False)


def test_the_command_line_plans_and_runs_it(region, tmp_path, capsys):
    since, _ = change(region, EDITS[0])
    file = tmp_path / "flow.yaml"
    file.write_text(json.dumps(region.settings))
    asked = ["--config", str(file), "--since-snapshot", str(since), "--json"]
    assert main(["plan", *asked]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["pending"] == 0
    assert counts["to_retire"]["prompts"] > 0
    assert main(["run", *asked]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["prompts_retired"] == counts["to_retire"]["prompts"] == summary["masks_retired"]
    assert main(["plan", *asked]) == 0
    assert json.loads(capsys.readouterr().out)["to_retire"] == {"prompts": 0, "chips": 0}


def test_a_change_of_attributes_alone_plans_the_chip_and_makes_nothing(region):
    change(region, "ALTER TABLE lake.pv ADD COLUMN note VARCHAR")
    since, _ = change(region, "UPDATE lake.pv SET note = 'seen' WHERE id = '3'")
    plan = drivers.plan_build(from_mapping(region.settings), since_snapshot=since)
    assert len(plan.chips) > 0
    assert (len(plan.pending), bool(plan.retirement)) == (0, False)


def test_changes_elsewhere_plan_nothing(region):
    since, _ = change(region, "CREATE TABLE lake.other (id INTEGER)", "INSERT INTO lake.other VALUES (1)")
    plan = drivers.plan_build(from_mapping(region.settings), since_snapshot=since)
    assert (len(plan.chips), len(plan.prompts), bool(plan.retirement)) == (0, 0, False)
    assert drivers.run("build", region.settings, since_snapshot=since).exit_code == 0


def test_a_broken_new_label_is_an_error_and_the_rest_goes_on(region):
    since, _ = change(region, "INSERT INTO lake.pv VALUES ('empty', ST_GeomFromText('POLYGON EMPTY'))", EDITS[2])
    summary = drivers.run("build", region.settings, since_snapshot=since)
    assert (summary.inputs_failed, summary.exit_code) == (1, 3)
    assert summary.chips_written > 0


def test_what_cannot_be_compared_is_refused(region):
    config = from_mapping(region.settings)
    since, until = change(region, *EDITS)
    for bad in (until, until + 5):
        with pytest.raises(ConfigError, match="not before"):
            drivers.plan_build(config, since_snapshot=bad)
    connection = ducklake.connect(region.settings["catalog"], data_path=region.root / "labels.files", create=True)
    connection.execute(f"CALL ducklake_expire_snapshots('lake', versions => [{since + 1}])")
    connection.close()
    with pytest.raises(LabelTableError, match=f"snapshots {since + 1} between"):
        drivers.plan_build(config, since_snapshot=since)
    before, _ = change(region, "CREATE TABLE lake.kept AS SELECT * FROM lake.pv")
    change(region, "DROP TABLE lake.pv", "CREATE TABLE lake.pv AS SELECT * FROM lake.kept")
    with pytest.raises(LabelTableError, match="dropped and made again"):
        drivers.plan_build(config, since_snapshot=before)


def test_a_new_store_is_built_whole_first(region, tmp_path):
    since, _ = change(region, EDITS[2])
    with pytest.raises(ConfigError, match="without --since-snapshot"):
        drivers.plan_build(from_mapping(region.settings | {"store": str(tmp_path / "new")}), since_snapshot=since)
