"""Labels of one object in several datasets become one label that knows what was merged into it."""

from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from hamilton.function_modifiers import tag

from utils.deduplication import DeduplicationRule, Merges, duplicate_pairs, label_order, merges
from utils.label_check import LABELS

LABEL_MERGES = pa.schema(
    [
        pa.field("label_id", pa.string(), nullable=False, metadata={"doc": "the label that was kept"}),
        pa.field("merged_label_id", pa.string(), nullable=False, metadata={"doc": "the label merged into it"}),
        pa.field("merged_dataset", pa.string(), nullable=False),
        pa.field("overlap", pa.float32(), nullable=False, metadata={"doc": "by the rule's measure", "range": "0 to 1"}),
        pa.field("distance_m", pa.float32(), metadata={"unit": "m", "doc": "pairs with a point only"}),
    ]
)
"""One row per label that was merged away."""

MERGED = pa.field("merged", pa.map_(pa.string(), pa.float32()), nullable=False)
"""Label id merged in → overlap; empty on labels nothing was merged into."""

DISTINCT_LABELS = LABELS.append(MERGED)
"""Schema of labels, each object once."""

_FILLED = ("installed_on", "capacity_mw")


@tag(stage="labels")
def label_merges(checked_labels: pa.Table, deduplication: DeduplicationRule) -> pa.Table:
    """Which labels duplicate a label that is kept, one row each, sorted by kept id, then merged id.

    Raises:
        GeometryError: a geometry is unusable, or an id is used twice.
    """
    found = _merges(checked_labels, deduplication)
    ids, datasets = checked_labels["label_id"], checked_labels["dataset"]
    distance = found.distance_m
    table = pa.table(
        {
            "label_id": ids.take(pa.array(found.kept)),
            "merged_label_id": ids.take(pa.array(found.merged)),
            "merged_dataset": datasets.take(pa.array(found.merged)),
            "overlap": found.overlap,
            "distance_m": pa.array(distance, mask=np.isnan(distance)),
        }
    ).cast(LABEL_MERGES)
    return table.sort_by([("label_id", "ascending"), ("merged_label_id", "ascending")])


@tag(stage="labels")
def labels(checked_labels: pa.Table, label_merges: pa.Table, deduplication: DeduplicationRule) -> pa.Table:
    """Labels that were kept, in the order they came, with ``merged``: label id merged in → overlap.

    Geometry and everything else stay the kept label's own. With ``fill_missing``, a missing date or capacity comes from
    the merged label that overlaps it most and has one, and ``repairs`` says from which.
    """
    into: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)
    for row in label_merges.select(["label_id", "merged_label_id", "overlap"]).to_pylist():
        into[row["label_id"]].append((row["merged_label_id"], row["overlap"]))
    gone = set(label_merges["merged_label_id"].to_pylist())
    ids = checked_labels["label_id"].to_pylist()
    kept = checked_labels.filter(pa.array([label_id not in gone for label_id in ids], pa.bool_()))
    kept_ids = kept["label_id"].to_pylist()
    if deduplication.fill_missing and into:
        kept = _filled(kept, checked_labels, {label_id: place for place, label_id in enumerate(ids)}, into)
    merged = pa.array([into.get(label_id, []) for label_id in kept_ids], MERGED.type)
    return kept.append_column(MERGED, merged)


@tag(stage="labels")
def duplicate_reach_m(deduplication: DeduplicationRule) -> float | None:
    """How far apart duplicates may lie, metres; None where they are not merged."""
    return deduplication.point_distance_m if deduplication.enabled else None


def _merges(labels: pa.Table, rule: DeduplicationRule) -> Merges:
    if not rule.enabled or not len(labels):
        nothing = np.empty(0, np.int64)
        return Merges(kept=nothing, merged=nothing, overlap=np.empty(0, np.float32), distance_m=np.empty(0, np.float32))
    dataset = labels["dataset"].to_numpy()
    order = label_order(
        dataset,
        labels["kind"].to_numpy(),
        labels["label_id"].to_numpy(),
        rule,
        installed_on=_days(labels["installed_on"]),
        area_m2=labels["area_m2"].to_numpy(),
    )
    # to_numpy gives NaN for a missing area
    geometry = shapely.from_wkb(labels["geometry"].to_numpy())
    return merges(duplicate_pairs(geometry, dataset, rule), order)


def _days(dates: pa.ChunkedArray) -> Any:
    """Days since the epoch, NaN where there is none."""
    return dates.cast(pa.int32()).cast(pa.float64()).to_numpy()


def _filled(
    kept: pa.Table, checked: pa.Table, place: dict[str, int], into: dict[str, list[tuple[str, float]]]
) -> pa.Table:
    """``kept`` with missing attributes taken over, each noted in ``repairs``."""
    columns = {name: kept[name].to_pylist() for name in (*_FILLED, "repairs")}
    sources = {name: checked[name].to_pylist() for name in _FILLED}
    for row, label_id in enumerate(kept["label_id"].to_pylist()):
        best_first = sorted(into.get(label_id, []), key=lambda pair: (-pair[1], pair[0]))
        for name in _FILLED if best_first else ():
            if columns[name][row] is not None:
                continue
            giver = next((other for other, _ in best_first if sources[name][place[other]] is not None), None)
            if giver is not None:
                columns[name][row] = sources[name][place[giver]]
                columns["repairs"][row] = [*(columns["repairs"][row] or []), f"{name} from merged label {giver}"]
    for name, values in columns.items():
        at = kept.schema.get_field_index(name)
        kept = kept.set_column(at, kept.schema.field(name), pa.array(values, kept.schema.field(name).type))
    return kept
