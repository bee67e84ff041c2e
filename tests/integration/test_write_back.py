"""``write-back`` and ``explain DETECTION_ID`` through the command line, on detections made by hand."""

import json
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import shapely
import torch
import yaml

from dataflows import drivers, write_back
from dataflows.__main__ import EXIT_REFUSED, main
from dataflows.discovery_config import load
from dataflows.write_back import run_write_back
from store import ducklake, lance_io
from store.detection_chains import training_rows
from store.lineage import Run
from support import judged_search, mini_region
from support.judged_search import detection, detection_id, finding, stored
from utils.errors import ConfigError, LakeWriteError, SearchError, StoreNotWritableError

TABLE = "pv_detections"


class Region:
    """A region, a store of detections, a settings file, and the command line."""

    def __init__(self, root, capsys, **changes):
        self.region = mini_region.make(root, background_near_ratio=0.0, background_far_ratio=0.0)
        self.catalog, self.store = self.region.settings["catalog"], self.region.settings["store"]
        (root / "flow.yaml").write_text(yaml.safe_dump(self.region.settings | changes))
        self.file = root / "discover.yaml"
        self.file.write_text(yaml.safe_dump({"build": "flow.yaml"}))
        self._capsys = capsys

    @property
    def config(self):
        return load(self.file)

    def main(self, *arguments, code=0):
        self._capsys.readouterr()
        found = main([str(argument) for argument in arguments])
        out, err = self._capsys.readouterr()
        assert found == code, (out, err)
        assert "Traceback" not in err
        return out if found != EXIT_REFUSED else err

    def write(self, *more, code=0):
        return json.loads(self.main("write-back", "--config", self.file, "--json", *more, code=code))

    def lake(self, columns="detection_id, verdict"):
        with ducklake.connect(self.catalog) as connection:
            return connection.execute(f"SELECT {columns} FROM lake.{TABLE} ORDER BY detection_id").fetchall()

    def snapshot(self):
        with ducklake.connect(self.catalog) as connection:
            return ducklake.latest_snapshot(connection)


@pytest.fixture
def region(tmp_path, capsys):
    return Region(tmp_path / "region", capsys)


def test_judged_detections_reach_the_lake_in_one_snapshot(region):
    stored(
        region.store,
        [detection("a", 9.81, 47.85), detection("b", 9.82, 47.85, verdict="reject"), detection("c", 9.83, 47.85)],
        [finding("a", "spectral_angle"), finding("a", "shape", "abstain", value=None), finding("b", "spectral_angle")],
    )
    before = region.snapshot()
    told = region.write()
    assert (told["inserted"], told["snapshot"], told["judged"]) == (2, before + 1, 3)
    assert region.lake() == sorted((detection_id(name), "accept") for name in "ac")
    rows = {row[0]: row[1:] for row in region.lake("detection_id, ST_AsText(geometry), evidence, store")}
    text, evidence, store = rows[detection_id("a")]
    assert shapely.from_wkt(text).equals(shapely.from_wkb(detection("a", 9.81, 47.85)["outline"]))
    assert json.loads(evidence)["spectral_angle"] == {
        "reason": "spectral_angle speaks for", "unit": "rad", "value": 0.25, "verdict": "for"
    }  # fmt: skip
    assert json.loads(evidence)["shape"]["value"] is None
    assert Path(store).is_absolute()
    again = region.write()
    assert (again["inserted"], again["updated"], again["snapshot"]) == (0, 0, told["snapshot"])
    assert region.snapshot() == told["snapshot"]
    runs = lance_io.scan(region.store, "runs", ["run_id", "flow", "status", "counts"]).to_pylist()
    assert {(run["flow"], run["status"]) for run in runs} == {("write-back", "done")}
    assert json.loads(next(run["counts"] for run in runs if run["run_id"] == told["run_id"]))["snapshot"] == before + 1
    # the labels are as they were
    assert drivers.run("build", region.config.build).exit_code == 0


def test_verdicts_that_change_follow_and_review_is_taken_when_asked(region):
    stored(region.store, [detection("a", 9.81, 47.85), detection("b", 9.82, 47.85, verdict="review")])
    region.write()
    assert region.write("--verdicts", "accept,review")["inserted"] == 1
    stored(region.store, [detection("a", 9.81, 47.85, verdict="reject"), detection("b", 9.82, 47.85, verdict="review")])
    assert region.write()["updated"] == 1
    assert dict(region.lake()) == {detection_id("a"): "reject", detection_id("b"): "review"}
    lance_io.delete(region.store, "detections", [detection_id("b")])
    assert region.write()["withdrawn"] == 1


def test_a_newer_search_has_the_object_in_force(region):
    stored(region.store, [detection("a", 9.81, 47.85)])
    region.write()
    stored(region.store, [detection("a", 9.81001, 47.85, search="search-2", hours=1)])
    told = region.write()
    assert (told["search_id"], told["inserted"], told["superseded"]) == ("search-2", 1, 1)
    assert dict(region.lake("detection_id, superseded_by")) == {
        detection_id("a"): detection_id("a", "search-2"),
        detection_id("a", "search-2"): None,
    }


def test_a_newer_rejection_and_a_second_judgement_leave_nothing_in_force(region):
    old, other = detection("a", 9.81, 47.85), detection("b", 9.82, 47.85)
    stored(region.store, [old, other])
    region.write()
    newer = detection("a", 9.81001, 47.85, search="search-2", hours=1, verdict="reject")
    # b is judged again, in its own search
    stored(region.store, [newer, other | {"verdict": "reject"}])
    told = region.write()
    assert (told["search_id"], told["inserted"], told["updated"], told["overruled"]) == ("search-2", 1, 2, 1)
    assert region.lake("detection_id, verdict, superseded_by") == sorted(
        [
            (detection_id("a"), "accept", detection_id("a", "search-2")),
            (detection_id("a", "search-2"), "reject", None),
            (detection_id("b"), "reject", None),
        ]
    )
    assert region.write()["snapshot"] == told["snapshot"] == region.snapshot()
    region.write("--search", "search-1")
    assert region.snapshot() == told["snapshot"]
    text = region.main("explain", detection_id("a"), "--store", region.store)
    assert f"accept, found again as {detection_id('a', 'search-2')} (reject)" in text


def test_explain_of_a_write_back_that_was_refused_and_of_a_row_another_search_brought(region):
    stored(region.store, [detection("a", 9.81, 47.85, search="search-2", hours=1, verdict="reject")])
    with ducklake.connect(region.catalog) as connection:
        [table] = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name='lake'").fetchone()
    rejected = detection_id("a", "search-2")
    region.main("write-back", "--config", region.file, "--set", f"write_back_table={table}", code=EXIT_REFUSED)
    assert "not written back" in region.main("explain", rejected, "--store", region.store)
    stored(region.store, [detection("a", 9.81, 47.85)])
    region.write("--search", "search-1")
    text = region.main("explain", rejected, "--store", region.store)
    assert f"table {TABLE} of" in text
    assert "not written back" not in text


def test_what_is_not_judged_is_told_and_not_written(region):
    stored(region.store, [detection("a", 9.81, 47.85), detection("b", 9.82, 47.85, verdict=None)])
    told = region.write(code=3)
    assert (told["detections"], told["judged"], told["inserted"]) == (2, 1, 1)
    assert "1 of 2 detections judged" in region.main("write-back", "--config", region.file, code=3)


class TestRefusals:
    """Each is a typed error, and the lake is as it was."""

    @pytest.fixture(autouse=True)
    def untouched(self, region):
        before = region.snapshot()
        yield
        assert region.snapshot() == before

    def test_no_search(self, region):
        assert "discover" in region.main("write-back", "--config", region.file, code=EXIT_REFUSED)
        with pytest.raises(SearchError, match="nothing is known"):
            run_write_back(region.config, search_id="unheard-of")

    def test_not_judged(self, region):
        stored(region.store, [detection("a", 9.81, 47.85, verdict=None)])
        with pytest.raises(SearchError, match="none of its 1 detections was judged"):
            run_write_back(region.config)

    def test_labels_in_files(self, region, tmp_path):
        settings = yaml.safe_load((tmp_path / "region" / "flow.yaml").read_text())
        (tmp_path / "region" / "labels.geojson").write_text('{"type": "FeatureCollection", "features": []}')
        labels = [{"file": "labels.geojson", "id": "id"}]
        (tmp_path / "region" / "flow.yaml").write_text(yaml.safe_dump(settings | {"catalog": None, "labels": labels}))
        stored(region.store, [detection("a", 9.81, 47.85)])
        with pytest.raises(ConfigError, match="no lake to write"):
            run_write_back(region.config)

    def test_verdicts(self, region):
        stored(region.store, [detection("a", 9.81, 47.85)])
        with pytest.raises(ConfigError, match="unknown sure"):
            run_write_back(region.config, verdicts=("sure",))

    def test_a_table_of_something_else(self, region):
        stored(region.store, [detection("a", 9.81, 47.85)])
        with ducklake.connect(region.catalog) as connection:
            [table] = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name='lake'").fetchone()
        refused = region.main(
            "write-back", "--config", region.file, "--set", f"write_back_table={table}", code=EXIT_REFUSED
        )
        assert refused.startswith(LakeWriteError.__name__)
        [status] = lance_io.scan(region.store, "runs", ["status"])["status"].to_pylist()
        assert status == "failed"


class TestEnds:
    """How a write-back that does not end well is told."""

    @pytest.fixture
    def failing(self, region, monkeypatch):
        stored(region.store, [detection("a", 9.81, 47.85)])

        def fails(error):
            def write(*_, **__):
                raise error

            monkeypatch.setattr(write_back, "write_detections", write)
            return region

        return fails

    def test_an_interrupt(self, failing):
        region = failing(KeyboardInterrupt())
        summary = run_write_back(region.config)
        assert (summary.status, summary.exit_code) == ("interrupted", 130)
        assert lance_io.scan(region.store, "runs", ["status"])["status"].to_pylist() == ["interrupted"]
        assert "unknown" in region.main("write-back", "--config", region.file, code=130)

    def test_a_failure_that_cannot_be_recorded(self, failing, monkeypatch):
        region = failing(LakeWriteError("the disk is full"))
        record = Run.record

        def full(run, uri, status, *counts):
            if status != "running":
                raise StoreNotWritableError("the disk is full here too")
            record(run, uri, status, *counts)

        monkeypatch.setattr(Run, "record", full)
        with pytest.raises(LakeWriteError, match="the disk is full"):
            run_write_back(region.config)


@pytest.mark.parametrize("when", ["after", pytest.param("before", marks=pytest.mark.slow)])
def test_a_kill_around_the_commit_loses_and_doubles_nothing(region, when):
    stored(region.store, [detection("a", 9.81, 47.85), detection("b", 9.82, 47.85)])
    code = f"""
        import os, signal
        from dataflows import write_back
        from dataflows.discovery_config import load
        real = write_back.write_detections
        def killed(*arguments, **named):
            if {when!r} == "after":
                real(*arguments, **named)
            os.kill(os.getpid(), signal.SIGKILL)
        write_back.write_detections = killed
        write_back.run_write_back(load({str(region.file)!r}))
    """
    before = region.snapshot()
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    told = region.write()
    assert (told["inserted"], told["unchanged"]) == ((2, 0) if when == "before" else (0, 2))
    assert region.snapshot() == before + 1
    assert len(region.lake()) == 2
    statuses = lance_io.scan(region.store, "runs", ["status"])["status"].to_pylist()
    assert sorted(statuses) == ["done", "killed"]


class TestExplain:
    """A detection through evidence, model, training rows, scenes and lake."""

    @pytest.fixture
    def explained(self, region, tmp_path):
        drivers.run("build", region.config.build)
        version = lance_io.open_table(region.store, "training_data").version
        record = {
            "store": region.store, "table": "training_data", "version": version, "where": None,
            "recipes": {"mask_recipe": ["m1"]}, "chips": {"train": 3},
        }  # fmt: skip
        held = {
            "epoch": 3, "global_step": 12, "hyper_parameters": {"arch": "Unet", "encoder_name": "tiny"},
            "LanceDataModule": {"record": record},
        }  # fmt: skip
        torch.save(held, tmp_path / "best.ckpt")
        scene = lance_io.scan(region.store, "scenes", ["scene_id", "checksum"], "kind = 'vhr'").to_pylist()[0]
        run = Run(
            flow="discover", build_config="b", config={}, recipes={}, code={}, run_id="found-by",
            inputs={"tables": {"training_data": version}, "scenes": {"vhr": {scene["scene_id"]: scene["checksum"]}}},
        )  # fmt: skip
        run.record(region.store, "done")
        one = detection("a", 9.81, 47.85, model=str(tmp_path / "best.ckpt"), scene_ids=[scene["scene_id"], "gone"])
        stored(region.store, [one], [finding("a", "spectral_angle"), finding("a", "shape", "against")])
        return region, version, scene["scene_id"]

    def json(self, region, *asked):
        return json.loads(region.main("explain", *asked, "--store", region.store, "--json"))

    def test_in_every_form(self, explained):
        region, version, scene = explained
        text = region.main("explain", detection_id("a"), "--store", region.store)
        for told in ("not written back", "bright <frame> & blue", f"version {version}", f"scene {scene}"):
            assert told in text
        assert "scene gone, not in the table of scenes" in text
        written = region.write()
        chain = self.json(region, detection_id("a")[:10])
        assert chain["detection"]["detection_id"] == detection_id("a")
        assert [row["rule"] for row in chain["evidence"]] == ["shape", "spectral_angle"]
        assert chain["model"]["checkpoint"]["record"]["version"] == version
        assert len(chain["model"]["checkpoint"]["sha256"]) == 64
        train = lance_io.scan(region.store, "training_data", ["uuid"], "split = 'train'", version)["uuid"].to_pylist()
        assert chain["model"]["rows"]["rows"] == len(train)
        assert set(chain["model"]["rows"]["uuids"]) == set(train)
        assert [row["scene_id"] for row in chain["scenes"]] == [scene]
        assert chain["tables"] == {"training_data": version}
        assert chain["lake"]["snapshot"] == written["snapshot"]
        assert chain["lake"]["written_run_id"] == written["run_id"]

        text = region.main("explain", detection_id("a"), "--store", region.store)
        assert f"snapshot {written['snapshot']}: accept" in text
        self.drawn(region)
        self.at_a_version(region)

    def drawn(self, region):
        lines = region.main("explain", detection_id("a"), "--store", region.store, "--format", "mermaid").splitlines()
        edges = {tuple(line.split(" --> ")) for line in map(str.strip, lines) if " --> " in line}
        nodes = {found[1] for line in lines if (found := re.match(r'\s+(\w+)[\[({]+"', line))}
        assert lines[0] == "flowchart LR"
        assert {("rows", "model"), ("model", "search"), ("search", "detection"), ("verdict", "lake")} <= edges
        assert {("scene0", "search"), ("detection", "finding0"), ("finding1", "verdict")} <= edges
        assert {name for edge in edges for name in edge} <= nodes

    def at_a_version(self, region):
        version = lance_io.open_table(region.store, "detections").version
        stored(region.store, [detection("a", 9.81, 47.85, verdict="reject")])
        assert self.json(region, detection_id("a"))["detection"]["verdict"] == "reject"
        assert self.json(region, f"{detection_id('a')}@{version}")["detection"]["verdict"] == "accept"

    def test_of_what_is_gone(self, explained, tmp_path):
        region, version, _ = explained
        record = {"store": region.store, "table": "training_data", "version": version}
        assert training_rows(record)["unknown"] is None
        assert "version" in training_rows(record | {"version": 999})["unknown"]
        assert "no detection" in region.main("explain", "ffffffff", "--store", region.store, code=EXIT_REFUSED)
        region.write()
        (tmp_path / "best.ckpt").write_bytes(b"no checkpoint")
        (tmp_path / "region" / "labels.ducklake").rename(tmp_path / "away")
        chain = self.json(region, detection_id("a"))
        assert "no checkpoint" in chain["model"]["unknown"]
        assert "no DuckLake catalogue" in chain["lake"]["unknown"]
        assert "unknown" in region.main("explain", detection_id("a"), "--store", region.store)
        region.main("explain", detection_id("a"), "--store", region.store, "--format", "mermaid")


def test_recipes_of_other_judgements_do_not_count(region):
    stored(region.store, [detection("a", 9.81, 47.85)], [finding("a", "shape", validation_recipe="old")])
    region.write()
    assert region.lake("evidence") == [("{}",)]
    assert judged_search.RECIPE != "old"
