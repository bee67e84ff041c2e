"""Storing the detections of a search: idempotent, verdicts kept, vanished rows gone."""

import numpy as np
import pyarrow as pa
import pytest

from dataflows.detections import DetectionRule, detection_table, found_objects
from store import lance_io
from store.detections import read_detections, store_detections
from support.detection_rasters import HeldParts
from utils.errors import SchemaError


def raster(*places: tuple[int, int], size: int = 10) -> HeldParts:
    data = np.zeros((64, 64), np.uint8)
    for row, column in places:
        data[row : row + size, column : column + size] = 200
    return HeldParts(data=data)


def rows_of(parts: HeldParts, search_id: str = "s1", run_id: str = "r1") -> pa.Table:
    objects = found_objects(parts, parts.raster, parts.blocks, DetectionRule())
    return detection_table(
        objects, search_id=search_id, model_id="m", model="m.ckpt", run_id=run_id, gsd_m=0.5, h3_resolution=10
    )


def judged(store, detection_id: str) -> None:
    values = {"verdict": "'accept'", "confidence": "0.9", "validation_recipe": "'v1'"}
    assert lance_io.mark(store, "detections", [detection_id], values) == 1


def version(store) -> int:
    return lance_io.open_table(store, "detections").version


def test_the_same_search_again_changes_nothing(tmp_path) -> None:
    first = store_detections(tmp_path, rows_of(raster((5, 5), (30, 30))), "s1")
    assert first.counts() == {"inserted": 2, "updated": 0, "unchanged": 0, "deleted": 0}
    before, at = read_detections(tmp_path), version(tmp_path)
    again = store_detections(tmp_path, rows_of(raster((5, 5), (30, 30)), run_id="r2"), "s1")
    assert again.counts() == {"inserted": 0, "updated": 0, "unchanged": 2, "deleted": 0}
    assert version(tmp_path) == at
    assert read_detections(tmp_path).equals(before)


def test_vanished_rows_go_with_their_evidence_and_other_searches_stay(tmp_path) -> None:
    store_detections(tmp_path, rows_of(raster((5, 5), (30, 30))), "s1")
    other = rows_of(raster((5, 5)), "s2")
    store_detections(tmp_path, other, "s2")
    gone = rows_of(raster((30, 30)))["detection_id"][0].as_py()
    stays = other["detection_id"][0].as_py()
    lance_io.write(tmp_path, "evidence", evidence(gone, stays))
    counts = store_detections(tmp_path, rows_of(raster((5, 5))), "s1").counts()
    assert counts == {"inserted": 0, "updated": 0, "unchanged": 1, "deleted": 1}
    assert gone not in read_detections(tmp_path)["detection_id"].to_pylist()
    assert len(read_detections(tmp_path, search_id="s2")) == 1
    assert lance_io.scan(tmp_path, "evidence", ["detection_id"])["detection_id"].to_pylist() == [stays]


def test_a_verdict_stays_while_the_outline_does(tmp_path) -> None:
    table = rows_of(raster((5, 5), (30, 30)))
    store_detections(tmp_path, table, "s1")
    for detection_id in table["detection_id"].to_pylist():
        judged(tmp_path, detection_id)
    at = table.schema.get_field_index("match")
    relabelled = table.set_column(at, table.schema.field(at), pa.array(["confirmed"] * 2))
    counts = store_detections(tmp_path, relabelled, "s1").counts()
    assert counts["updated"] == 2
    rows = read_detections(tmp_path).to_pylist()
    assert [(row["match"], row["verdict"], row["validation_recipe"]) for row in rows] == [
        ("confirmed", "accept", "v1")
    ] * 2
    grown = rows_of(raster((5, 5), (30, 30), size=14))
    assert set(grown["detection_id"].to_pylist()) == set(table["detection_id"].to_pylist())
    assert store_detections(tmp_path, grown, "s1").counts()["updated"] == 2
    assert read_detections(tmp_path)["verdict"].to_pylist() == [None, None]


def test_a_search_that_finds_nothing_makes_an_empty_table(tmp_path) -> None:
    counts = store_detections(tmp_path, rows_of(raster()), "s1").counts()
    assert set(counts.values()) == {0}
    assert len(read_detections(tmp_path)) == 0
    store_detections(tmp_path, rows_of(raster((5, 5))), "s1")
    assert store_detections(tmp_path, rows_of(raster()), "s1").deleted == 1


def test_rows_of_another_search_or_twice_are_refused(tmp_path) -> None:
    rows = rows_of(raster((5, 5)))
    with pytest.raises(SchemaError, match="search s2"):
        store_detections(tmp_path, rows, "s2")
    with pytest.raises(SchemaError, match="each once"):
        store_detections(tmp_path, pa.concat_tables([rows, rows]), "s1")


def test_reading_filters(tmp_path) -> None:
    table = rows_of(raster((5, 5), (30, 30), (5, 40)))
    store_detections(tmp_path, table, "s1")
    judged(tmp_path, table["detection_id"][0].as_py())
    assert len(read_detections(tmp_path, verdicts=["accept"])) == 1
    assert len(read_detections(tmp_path, verdicts=["none"])) == 2
    assert len(read_detections(tmp_path, verdicts=["accept", "none"])) == 3
    assert len(read_detections(tmp_path, verdicts=["none"], where="area_m2 > 1 OR score > 2", search_id="s1")) == 2
    assert len(read_detections(tmp_path, search_id="s9")) == 0
    assert read_detections(tmp_path, columns=["score"]).column_names == ["detection_id", "search_id", "score"]
    assert len(read_detections(tmp_path / "nowhere")) == 0


def evidence(*detection_ids: str) -> pa.Table:
    from datetime import UTC, datetime

    from store.schemas import EVIDENCE

    rows = [
        {
            "evidence_id": f"e{detection_id}",
            "detection_id": detection_id,
            "rule": "size",
            "verdict": "for",
            "value": 1.0,
            "unit": "m²",
            "reason": "fits",
            "details": [],
            "scene_ids": [],
            "acquired_at": None,
            "validation_recipe": "v1",
            "run_id": "r1",
            "created_at": datetime(2024, 1, 1, tzinfo=UTC),
        }
        for detection_id in detection_ids
    ]
    return pa.Table.from_pylist(rows, schema=EVIDENCE)
