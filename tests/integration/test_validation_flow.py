"""Detections of the sample region judged by the whole flow: verdicts, evidence, kills, broken imagery, clouds."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import rasterio
import shapely
from shapely.geometry import shape

from dataflows import discovery_config, validation
from dataflows.__main__ import main
from dataflows.discovery_config import DiscoveryConfig
from dataflows.validation import run_validation
from dataflows.validation_evidence import RULES, SPECTRAL_RULES
from dataflows.validation_report import validation_report
from store import lance_io
from store.evidence import findings_of
from support.detection_rows import detection_rows
from utils.errors import ConfigError, SearchError

FOUND_AT = datetime(2023, 6, 9, 8, 48, tzinfo=UTC)
FAST = {"mask_agreement": "none"}


def shapes_of(path: Path) -> list[tuple[dict, shapely.Geometry]]:
    return [(one["properties"], shape(one["geometry"])) for one in json.loads(path.read_text())["features"]]


def found_in(root: Path) -> tuple[pa.Table, list[str]]:
    """True arrays and confusers as a search may have found them, and the kind of each."""
    pv = [(p, g) for p, g in shapes_of(root / "truth" / "pv.geojson") if p["built"] <= "2023-06-09"]
    confusers = [(p, g) for p, g in shapes_of(root / "truth" / "confusers.geojson") if "2023-06-09" in p["days"]]
    confusers = [(p, g) for p, g in confusers if p["area_m2"] > 20]
    kinds = ["pv"] * len(pv) + [p["kind"] for p, _ in confusers]
    return detection_rows([g for _, g in pv + confusers], acquired_at=FOUND_AT), kinds


def settings(root: Path, store: Path, **changes) -> DiscoveryConfig:
    validation_settings = FAST | changes.pop("validation", {})
    return discovery_config.load(
        root / "discover.yaml",
        store=str(store),
        out=str(store.parent / "out"),
        validation=validation_settings,
        **changes,
    )


@pytest.fixture(scope="module")
def judged(sample_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DiscoveryConfig, list[str]]:
    store = tmp_path_factory.mktemp("validation") / "store"
    rows, kinds = found_in(sample_root)
    lance_io.write(store, "detections", rows)
    config = settings(sample_root, store)
    summary = run_validation(config)
    assert (summary.exit_code, summary.judged, summary.measured) == (0, len(rows), len(rows))
    assert summary.model is None
    assert "rules alone" in summary.model_note
    return config, kinds


def verdicts(config: DiscoveryConfig) -> dict[str, str | None]:
    rows = lance_io.scan(config.store, "detections", ["detection_id", "verdict"]).to_pylist()
    return {row["detection_id"]: row["verdict"] for row in rows}


def test_every_detection_has_every_finding_and_a_verdict_with_reasons(judged) -> None:
    config, kinds = judged
    rows = lance_io.scan(config.store, "detections", ["verdict", "confidence", "reasons", "validated_at"]).to_pylist()
    assert all(
        row["verdict"] and row["reasons"] and 0 <= row["confidence"] <= 1 and row["validated_at"] for row in rows
    )
    evidence = lance_io.scan(config.store, "evidence", ["rule", "verdict", "value", "reason", "scene_ids"])
    assert Counter(evidence["rule"].to_pylist()) == dict.fromkeys(RULES, len(kinds))
    assert set(evidence["verdict"].to_pylist()) <= {"for", "against", "neutral", "abstain"}
    assert all(evidence["reason"].to_pylist())


def test_small_objects_are_judged_by_what_can_see_them(judged) -> None:
    config, _ = judged
    rows = lance_io.scan(config.store, "detections", ["detection_id", "area_m2", "verdict"]).to_pylist()
    small = [row for row in rows if row["area_m2"] < 400]
    told = findings_of(config.store, [row["detection_id"] for row in small])
    assert all(told[row["detection_id"]][rule].verdict == "abstain" for row in small for rule in SPECTRAL_RULES)
    assert all(row["verdict"] != "unverifiable" for row in small)
    assert sum(row["verdict"] == "accept" for row in small) >= 5


def test_water_is_rejected_with_a_reason(judged) -> None:
    config, kinds = judged
    areas = lance_io.scan(config.store, "detections", ["detection_id", "area_m2", "verdict", "reasons"]).to_pylist()
    large = [row for row in areas if kinds[int(row["detection_id"][1:])] == "water" and row["area_m2"] > 1000]
    assert large
    for row in large:
        assert row["verdict"] == "reject"
        assert "water" in row["reasons"][0]


def test_precision_rises_and_the_report_adds_up(judged) -> None:
    config, kinds = judged
    report = validation_report(config)
    assert report.before.precision == pytest.approx(kinds.count("pv") / len(kinds))
    assert report.before.recall == 1
    assert report.after.precision > report.before.precision + 0.15
    assert report.with_review.recall >= 0.7
    for kind, counts in report.by_kind.items():
        assert counts["detections"] == kinds.count(kind) == sum(counts.values()) - counts["detections"]


def test_a_second_run_does_nothing(judged) -> None:
    config, _ = judged
    before = {name: lance_io.open_table(config.store, name).version for name in ("detections", "evidence")}
    summary = run_validation(config)
    assert (summary.measured, summary.judged, summary.evidence_written) == (0, 0, 0)
    assert summary.skipped == summary.detections
    assert before == {name: lance_io.open_table(config.store, name).version for name in before}


def test_other_limits_judge_again_without_measuring(judged) -> None:
    config, _ = judged
    stricter = discovery_config.DiscoveryConfig(**{**vars(config), "validation": FAST | {"accept": 0.99}})
    before = verdicts(config)
    summary = run_validation(stricter)
    assert (summary.measured, summary.judged) == (0, len(before))
    assert list(verdicts(config).values()).count("accept") < list(before.values()).count("accept")
    assert run_validation(config).judged == len(before)
    assert verdicts(config) == before


def test_the_command_line_says_the_same(judged, capsys: pytest.CaptureFixture[str], sample_root: Path) -> None:
    config, kinds = judged
    options = ["--config", str(sample_root / "discover.yaml"), "--store", config.store, "--json"]
    changes = ["--set", f"out={config.out}", "--set", "validation={mask_agreement: none}"]
    assert main(["validate", *options, *changes]) == 0
    assert json.loads(capsys.readouterr().out)["detections"] == len(kinds)
    assert main(["validation-report", *options, *changes]) == 0
    assert json.loads(capsys.readouterr().out)["by_kind"]["pv"]["detections"] == kinds.count("pv")
    assert main(["validate", *options[:-1], *changes, "--search", "none"]) == 2
    assert "SearchError" in capsys.readouterr().err


def test_a_run_that_was_stopped_goes_on(
    sample_root: Path, tmp_path: Path, judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    lance_io.write(store, "detections", found_in(sample_root)[0])
    config = settings(sample_root, store)
    monkeypatch.setattr(validation, "_COMMIT_ROWS", 1)
    write, calls = validation.evidence.write_evidence, []

    def stopped(uri, rows):
        calls.append(len(rows))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(uri, rows)

    monkeypatch.setattr(validation.evidence, "write_evidence", stopped)
    summary = run_validation(config)
    assert summary.exit_code == 130
    assert set(verdicts(config).values()) == {None}
    monkeypatch.setattr(validation.evidence, "write_evidence", write)
    summary = run_validation(config)
    assert summary.exit_code == 0
    assert summary.skipped == calls[0] // len(RULES) > 0
    assert verdicts(config) == verdicts(judged[0])
    assert len(lance_io.scan(store, "evidence", ["evidence_id"])) == summary.detections * len(RULES)


@pytest.mark.slow
def test_a_killed_run_is_told_to_be_one_and_the_next_ends_as_it_would_have(
    sample_root: Path, tmp_path: Path, judged
) -> None:
    store = tmp_path / "store"
    lance_io.write(store, "detections", found_in(sample_root)[0])
    config = settings(sample_root, store)
    code = f"""
        import os, signal
        from dataflows import discovery_config, validation
        validation._COMMIT_ROWS = 1
        write, calls = validation.evidence.write_evidence, []
        def killed(uri, rows):
            calls.append(write(uri, rows))
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return calls[-1]
        validation.evidence.write_evidence = killed
        config = discovery_config.load(
            {str(sample_root / "discover.yaml")!r}, store={str(store)!r}, out={config.out!r},
            validation={dict(config.validation)!r},
        )
        validation.run_validation(config)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert lance_io.scan(store, "runs", ["status"])["status"].to_pylist() == ["running"]
    summary = run_validation(config)
    assert (summary.exit_code, summary.skipped > 0) == (0, True)
    statuses = lance_io.scan(store, "runs", ["status"], "flow = 'validate'")["status"].to_pylist()
    assert sorted(statuses) == ["done", "killed"]
    assert verdicts(config) == verdicts(judged[0])
    assert len(lance_io.scan(store, "evidence", ["evidence_id"])) == summary.detections * len(RULES)


def test_broken_imagery_costs_those_on_it_and_no_others(sample_root: Path, tmp_path: Path) -> None:
    vhr = tmp_path / "vhr"
    shutil.copytree(sample_root / "vhr", vhr)
    whole = {tile: tile.read_bytes() for tile in sorted((vhr / "20230609").glob("*.tif"))[:2]}
    for tile, content in whole.items():
        tile.write_bytes(content[: len(content) // 3])
    store = tmp_path / "store"
    lance_io.write(store, "detections", found_in(sample_root)[0])
    config = settings(sample_root, store, **{"build.vhr": {"source": "local", "root": str(vhr)}})
    summary = run_validation(config)
    assert summary.exit_code == 3
    assert 0 < summary.failed < summary.detections
    failed = {one for one, verdict in verdicts(config).items() if verdict is None}
    errors = lance_io.scan(store, "errors", ["input_ids", "error_type", "node"]).to_pylist()
    assert {row["input_ids"][0] for row in errors} == failed
    assert len(failed) == summary.failed
    for tile, content in whole.items():
        tile.write_bytes(content)
    assert run_validation(config).exit_code == 0
    assert None not in verdicts(config).values()


def test_a_large_array_under_cloud_is_unverifiable(sample_root: Path, tmp_path: Path) -> None:
    msi = tmp_path / "msi"
    shutil.copytree(sample_root / "msi", msi)
    for path in msi.rglob("*SCL*.tif"):
        with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
            raster.write(np.full((1, raster.height, raster.width), 9, np.uint8))
    store = tmp_path / "store"
    rows, kinds = found_in(sample_root)
    lance_io.write(store, "detections", rows)
    config = settings(sample_root, store, **{"build.msi": {"source": "local", "root": str(msi)}})
    run_validation(config)
    told = lance_io.scan(store, "detections", ["detection_id", "area_m2", "verdict", "reasons"]).to_pylist()
    large = [row for row in told if row["area_m2"] > 405]
    assert {row["verdict"] for row in large} <= {"unverifiable", "reject"}
    arrays = [row for row in large if kinds[int(row["detection_id"][1:])] == "pv"]
    assert any(row["verdict"] == "unverifiable" and "cloud" in row["reasons"][0] for row in arrays)
    assert all(row["verdict"] != "unverifiable" for row in told if row["area_m2"] < 400)


def test_the_mask_factory_is_asked_about_the_undecided(sample_root: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    rows, _ = found_in(sample_root)
    lance_io.write(store, "detections", rows.slice(0, 12))
    config = settings(sample_root, store, validation={"mask_agreement": "review", "accept": 0.95, "review": 0.05})
    summary = run_validation(config)
    assert summary.asked_masks > 0
    told = lance_io.scan(store, "evidence", ["rule", "value", "verdict"], "rule = 'mask_agreement'").to_pylist()
    assert len(told) == summary.asked_masks
    assert all(row["value"] is None or 0 <= row["value"] <= 1 for row in told)
    again = run_validation(config)
    assert (again.asked_masks, again.judged) == (0, 0)


def test_the_ring_leaves_out_all_detections_of_the_search(sample_root: Path, tmp_path: Path) -> None:
    large = max(
        (g for p, g in shapes_of(sample_root / "truth" / "pv.geojson") if p["built"] < "2023"), key=shapely.area
    )
    west, _, east, _ = large.bounds
    beside = shapely.affinity.translate(large, east - west + 2e-4)
    told = {}
    for name, outlines in (("alone", [large]), ("two", [large, beside])):
        config = settings(sample_root, tmp_path / name)
        lance_io.write(config.store, "detections", detection_rows(outlines, acquired_at=FOUND_AT))
        assert run_validation(config).exit_code == 0
        told[name] = findings_of(config.store, ["d0"])["d0"]
    ring_px = {name: found["ring_contrast"].details["ring_px"] for name, found in told.items()}
    assert ring_px["two"] < ring_px["alone"]
    rows = lance_io.scan(config.store, "evidence", ["evidence_id"], "detection_id = 'd0'")
    lance_io.delete(config.store, "evidence", rows["evidence_id"].to_pylist())
    assert run_validation(config).measured == 1
    assert findings_of(config.store, ["d0"])["d0"] == told["two"]


def test_ground_without_any_label_is_judged(sample_root: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    lance_io.write(store, "detections", found_in(sample_root)[0].slice(0, 4))
    old = {"build.installed": ["1900-01-01", "1900-12-31"], "build.keep_undated": False}
    config = settings(sample_root, store, **old)
    assert run_validation(config).exit_code == 0
    assert None not in verdicts(config).values()
    told = lance_io.scan(store, "evidence", ["verdict", "reason"], "rule = 'known_pv'").to_pylist()
    assert {(row["verdict"], row["reason"]) for row in told} == {("abstain", "no label on this ground to compare with")}


def test_nothing_to_judge_is_said(sample_root: Path, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="no detection"):
        run_validation(settings(sample_root, tmp_path / "store"))
    lance_io.write(tmp_path / "store", "detections", found_in(sample_root)[0])
    with pytest.raises(ConfigError, match="mask_agreement"):
        run_validation(settings(sample_root, tmp_path / "store", validation={"mask_agreement": "sometimes"}))
