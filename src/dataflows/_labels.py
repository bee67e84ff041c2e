"""Raw labels checked source by source."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import shapely

from store.ducklake_labels import BATCH_ROWS, LabelTable
from utils.label_check import LabelBatch, checked_batch
from utils.label_geometry import GeometryRules


def checked(raw: pa.Table, label_tables: list[LabelTable], area: shapely.Geometry | None) -> Iterator[LabelBatch]:
    """Raw labels (``store.ducklake_labels.LAKE_LABELS``) checked, batch by batch and source by source."""
    for batch in raw.to_batches(max_chunksize=BATCH_ROWS):
        for rows, rules in _sources(pa.Table.from_batches([batch]), label_tables):
            yield checked_batch(rows, rules, area)


def _sources(raw: pa.Table, mappings: list[LabelTable]) -> list[tuple[pa.Table, GeometryRules]]:
    """Rows of each source of a batch, and how their geometry is read."""
    known = {mapping.name: mapping for mapping in mappings}
    found = []
    for pair in raw.select(["label_table", "crs"]).group_by(["label_table", "crs"]).aggregate([]).to_pylist():
        mine = pc.and_(pc.equal(raw["label_table"], pair["label_table"]), pc.equal(raw["crs"], pair["crs"]))
        found.append((raw.filter(mine), known[pair["label_table"]].rules(pair["crs"])))
    return found
