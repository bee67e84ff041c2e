"""Raw label rows to labels every later stage can trust, batch by batch; each row is kept, refused or outside."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from utils.failures import Failure
from utils.label_geometry import (
    KINDS,
    REASONS,
    GeometryRules,
    RepairedGeometry,
    repair_bits,
    repair_lists,
    repaired_geometry,
)
from utils.label_parsing import absent
from utils.label_points import LabelPoints, all_positive, label_points, points_wkb

LABELS = pa.schema(
    [
        pa.field("label_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("label_table", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("geometry", pa.binary(), nullable=False, metadata={"crs": "EPSG:4326", "axes": "lon, lat"}),
        pa.field("installed_on", pa.date32()),
        pa.field("area_m2", pa.float64(), metadata={"unit": "m²", "doc": "As the dataset states it."}),
        pa.field("capacity_mw", pa.float64(), metadata={"unit": "MW", "doc": "As the dataset states it."}),
        pa.field("repairs", pa.list_(pa.string()), metadata={"doc": "Codes of utils.label_geometry.REPAIRS."}),
        pa.field("positive_points", pa.binary(), metadata={"crs": "EPSG:4326", "doc": "Multi-point on the object."}),
        pa.field("negative_points", pa.binary(), metadata={"crs": "EPSG:4326", "doc": "Multi-point off the object."}),
    ]
)
"""Labels every later stage can trust: unique ids, valid geometry, EPSG:4326."""

NO_ID = "no_id"
DUPLICATE = "duplicate_id"
ID_REASONS = {
    NO_ID: "the label has no id; ids are what masks are traced back by",
    DUPLICATE: "the label's id is used twice; ids are unique within a dataset, and the first one is kept",
}
"""Reasons that concern ids, beside :data:`utils.label_geometry.REASONS`."""


@dataclass(kw_only=True)
class LabelBatch:
    """What became of n raw labels of one source."""

    ids: pa.Array
    """``dataset/id`` of every raw label, shape (n,); null where the label has no id."""
    datasets: pa.Array
    """Dataset of every raw label, shape (n,)."""
    shapes: RepairedGeometry
    """Geometry, repairs and reasons, shape (n,)."""
    outside: NDArray[np.bool_]
    """Whether a usable label lies outside the area, shape (n,)."""
    labels: pa.Table
    """The kept labels, schema :data:`LABELS`."""

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which raw labels are in :attr:`labels`, shape (n,)."""
        live: NDArray[np.bool_] = absent(self.shapes.reasons) & ~self.outside
        return live

    def failures(self, node: str = "label_check") -> list[Failure]:
        """One failure per refused label, in order."""
        rows = np.flatnonzero(~absent(self.shapes.reasons))
        ids, datasets = self.ids.take(pa.array(rows)).to_pylist(), self.datasets.take(pa.array(rows)).to_pylist()
        return [
            label_failure(
                str(self.shapes.reasons[row]), name or f"{dataset}/", self.shapes.details.get(int(row)), node=node
            )
            for row, name, dataset in zip(rows.tolist(), ids, datasets, strict=True)
        ]


@dataclass(kw_only=True)
class LabelTally:
    """Labels of several batches; every raw label is counted exactly once."""

    labels: list[pa.Table] = field(default_factory=list)
    """Kept labels, batch by batch."""
    failures: list[Failure] = field(default_factory=list)
    """Refused labels."""
    rows: int = 0
    """Raw labels."""
    outside: int = 0
    """Usable labels outside the area."""

    def take(self, batch: LabelBatch) -> None:
        """Add one batch."""
        self.rows += len(batch.ids)
        self.outside += int(batch.outside.sum())
        self.failures += batch.failures()
        self.labels.append(batch.labels)

    def table(self) -> pa.Table:
        """Kept labels with unique ids; labels whose id was met before become failures."""
        labels = pa.concat_tables([LABELS.empty_table(), *self.labels])
        again = repeated(labels["label_id"])
        for name in labels["label_id"].filter(pa.array(again)).to_pylist():
            self.failures.append(label_failure(DUPLICATE, name))
        return labels.filter(pa.array(~again)) if again.any() else labels


def checked_batch(raw: pa.Table, rules: GeometryRules, area: shapely.Geometry | None = None) -> LabelBatch:
    """Check raw labels of one source.

    Args:
        raw: rows with the columns of ``store.ducklake_labels.LAKE_LABELS``, n of them.
        rules: CRS, axis order and limits of the source.
        area: area of interest in EPSG:4326; None is everywhere. Prepare it (``shapely.prepare``) for many batches.

    Raises:
        CRSError: the CRS of ``rules`` is unknown.
    """
    shapes = repaired_geometry(raw["geometry_wkb"], raw["geometry_wkt"], rules)
    for column in ("installed_on", "area_m2", "capacity_mw"):
        if raw["unreadable"].null_count < len(raw):
            named = pc.fill_null(pc.match_substring(raw["unreadable"], column), False).to_numpy(zero_copy_only=False)
            shapes.repairs |= repair_bits(f"{column}_unreadable", named.astype(bool))
    dataset = pc.coalesce(raw["dataset"], raw["label_table"]).combine_chunks()
    ids = pc.binary_join_element_wise(dataset, raw["label_id"].combine_chunks(), "/")
    shapes.reasons[np.asarray(ids.is_null()) & absent(shapes.reasons)] = NO_ID
    live = absent(shapes.reasons)
    outside = np.zeros(len(raw), bool)
    if area is not None:
        outside[live] = ~shapely.intersects(area, shapes.geometry[live])
    points = {
        name: _checked_points(raw, name, rules, shapes, live & ~outside)
        for name in ("positive_points", "negative_points")
    }
    rows = np.flatnonzero(absent(shapes.reasons) & ~outside)
    index = pa.array(rows)
    columns = {
        "label_id": ids.take(index),
        "dataset": dataset.take(index),
        "label_table": raw["label_table"].take(index).combine_chunks(),
        "kind": pa.array(np.array(KINDS, object)[shapes.kinds[rows]], pa.string()),
        "geometry": pa.array(shapely.to_wkb(shapes.geometry[rows], include_srid=False), pa.binary()),
        **{name: raw[name].take(index).combine_chunks() for name in ("installed_on", "area_m2", "capacity_mw")},
        "repairs": repair_lists(shapes.repairs[rows]),
        "positive_points": pa.array(
            all_positive(shapes.geometry[rows], shapes.kinds[rows], points["positive_points"].points[rows]), pa.binary()
        ),
        "negative_points": pa.array(points_wkb(points["negative_points"].points[rows]), pa.binary()),
    }
    return LabelBatch(
        ids=ids,
        datasets=dataset,
        shapes=shapes,
        outside=outside,
        labels=pa.Table.from_arrays([columns[name] for name in LABELS.names], schema=LABELS),
    )


def _checked_points(
    raw: pa.Table, name: str, rules: GeometryRules, shapes: RepairedGeometry, wanted: NDArray[np.bool_]
) -> LabelPoints:
    """Points of raw labels; wanted labels whose points cannot be used are refused."""
    found = label_points(raw[f"{name}_wkb"], raw[f"{name}_wkt"], rules, name)
    for row, problem in found.problems.items():
        if wanted[row] and shapes.reasons[row] is None:
            shapes.reasons[row], shapes.details[row] = "bad_points", problem
    return found


def repeated(ids: pa.ChunkedArray | pa.Array) -> NDArray[np.bool_]:
    """Whether each id was met before, shape (n,)."""
    again = np.ones(len(ids), bool)
    if len(ids):
        encoded = pc.dictionary_encode(ids)
        codes = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        again[np.unique(codes.indices.to_numpy(zero_copy_only=False), return_index=True)[1]] = False
    return again


def label_failure(reason: str, label_id: str, detail: str | None = None, *, node: str = "label_check") -> Failure:
    """A refused label as a failure."""
    error = "LabelError" if reason in ID_REASONS else "GeometryError"
    text = ID_REASONS.get(reason) or REASONS[reason]
    return Failure(
        node=node,
        error_type=error,
        message=f"{text}: {detail}" if detail else text,
        traceback_hash=hashlib.sha256(f"{node}:{reason}".encode()).hexdigest()[:16],
        input_ids=(label_id,),
    )
