"""Labels of several data sets, each object once."""

import pyarrow as pa
from hamilton.function_modifiers import tag

from utils.label_check import LABELS

DISTINCT_LABELS = LABELS.append(pa.field("merged", pa.map_(pa.string(), pa.float32()), nullable=False))


@tag(stage="labels")
def duplicate_reach_m() -> float | None:
    """How far apart duplicates may lie, metres; None where duplicates are kept."""
    return None


@tag(stage="labels")
def labels(checked_labels: pa.Table) -> pa.Table:
    """Labels without duplicates, schema :data:`DISTINCT_LABELS`."""
    return checked_labels.append_column(
        DISTINCT_LABELS.field("merged"), pa.array([[]] * len(checked_labels), pa.map_(pa.string(), pa.float32()))
    )
