"""The de-duplication nodes, called directly and through a driver."""

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely
from hamilton import driver
from shapely.geometry import Point, Polygon, box

from dataflows import label_deduplication
from dataflows.label_deduplication import LABEL_MERGES, MERGED
from utils.deduplication import DeduplicationRule

CHECKED = pa.schema(
    [
        ("label_id", pa.string()),
        ("dataset", pa.string()),
        ("label_table", pa.string()),
        ("kind", pa.string()),
        ("geometry", pa.binary()),
        ("installed_on", pa.date32()),
        ("area_m2", pa.float64()),
        ("capacity_mw", pa.float64()),
        ("repairs", pa.list_(pa.string())),
    ]
)


def label(label_id: str, geometry: shapely.Geometry, **more: Any) -> dict[str, Any]:
    kind = "point" if geometry.geom_type == "Point" else "polygon"
    defaults = {"installed_on": None, "area_m2": None, "capacity_mw": None, "repairs": []}
    row = {"label_id": label_id, "dataset": label_id.split("/", maxsplit=1)[0], "label_table": "t", "kind": kind}
    return row | {"geometry": shapely.to_wkb(geometry)} | defaults | more


@pytest.fixture
def checked_labels() -> pa.Table:
    rows = [
        label("osm/1", box(8.0001, 47, 8.0011, 47.001), installed_on=date(2020, 5, 1), capacity_mw=2.0),
        label("survey/1", box(8, 47, 8.001, 47.001), repairs=["closed"]),
        label("osm/2", Point(8.0005, 47.0005), capacity_mw=9.0),
        label("survey/2", Polygon([(9, 47), (9.001, 47), (9, 47.001)])),
        label("osm/3", Point(20, 10)),
    ]
    return pa.Table.from_pylist(rows, CHECKED)


RULE = DeduplicationRule(priority=("survey",))


def run(checked_labels: pa.Table, rule: DeduplicationRule) -> tuple[pa.Table, pa.Table]:
    merges = label_deduplication.label_merges(checked_labels, rule)
    return merges, label_deduplication.labels(checked_labels, merges, rule)


def test_merged_labels_are_named_where_they_went(checked_labels: pa.Table) -> None:
    merges, kept = run(checked_labels, RULE)
    assert merges.schema.equals(LABEL_MERGES)
    assert kept.schema.equals(CHECKED.append(MERGED))
    assert [(row["label_id"], row["merged_label_id"], row["merged_dataset"]) for row in merges.to_pylist()] == [
        ("survey/1", "osm/1", "osm"),
        ("survey/1", "osm/2", "osm"),
    ]
    assert merges["distance_m"].to_pylist() == [None, 0.0]
    assert merges["overlap"][0].as_py() == pytest.approx(9 / 11, abs=1e-4)
    assert kept["label_id"].to_pylist() == ["survey/1", "survey/2", "osm/3"]
    assert [name for name, _ in kept["merged"][0].as_py()] == ["osm/1", "osm/2"]
    assert kept["merged"].to_pylist()[1:] == [[], []]
    assert sum(len(row) for row in kept["merged"].to_pylist()) + len(kept) == len(checked_labels)


def test_missing_attributes_come_from_the_best_overlap_and_say_so(checked_labels: pa.Table) -> None:
    first = run(checked_labels, RULE)[1].to_pylist()[0]
    # the point lies on the label (overlap 1), so its capacity goes before the outline's
    assert first["capacity_mw"] == 9.0
    assert first["installed_on"] == date(2020, 5, 1)
    assert first["repairs"] == [
        "closed",
        "installed_on from merged label osm/1",
        "capacity_mw from merged label osm/2",
    ]
    plain = run(checked_labels, DeduplicationRule(priority=("survey",), fill_missing=False))[1].to_pylist()[0]
    assert (plain["capacity_mw"], plain["installed_on"], plain["repairs"]) == (None, None, ["closed"])
    assert first["geometry"] == plain["geometry"] == checked_labels["geometry"][1].as_py()


def test_row_order_changes_nothing_but_row_order(checked_labels: pa.Table) -> None:
    merges, kept = run(checked_labels, RULE)
    turned = checked_labels.take(pa.array(np.arange(len(checked_labels))[::-1]))
    other_merges, other_kept = run(turned, RULE)
    assert other_merges.equals(merges)
    assert sorted(other_kept.to_pylist(), key=str) == sorted(kept.to_pylist(), key=str)


@pytest.mark.parametrize("rows", [0, 1])
def test_few_labels(checked_labels: pa.Table, rows: int) -> None:
    merges, kept = run(checked_labels.slice(0, rows), RULE)
    assert len(merges) == 0
    assert merges.schema.equals(LABEL_MERGES)
    assert kept.schema.equals(CHECKED.append(MERGED))
    assert len(kept) == rows


def test_switched_off(checked_labels: pa.Table) -> None:
    merges, kept = run(checked_labels, DeduplicationRule(enabled=False))
    assert len(merges) == 0
    assert kept.drop(["merged"]).equals(checked_labels)


def test_input_is_left_alone_and_the_module_builds(checked_labels: pa.Table) -> None:
    before = checked_labels.to_pylist()
    flow = driver.Builder().with_modules(label_deduplication).build()
    result = flow.execute(["labels"], inputs={"checked_labels": checked_labels, "deduplication": RULE})
    assert result["labels"].equals(run(checked_labels, RULE)[1])
    assert checked_labels.to_pylist() == before
