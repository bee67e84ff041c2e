"""Table of what a generation of masks would put into ``training_data``: promotion copies it, column by column."""

import pyarrow as pa

from store.chip_schemas import training_data
from store.columns import TIME, column, table_schema
from utils.types import ChipProfile

_ALWAYS = (
    "prompt_geometry", "generated_mask", "pv_fraction", "n_prompts", "n_accepted", "n_review", "n_rejected",
    "quality_score", "quality_flags", "weight", "mask_source", "generation", "mask_recipe",
)  # fmt: skip
_INDEX_PLACES = ("_inside", "_ring", "_inside_px", "_ring_px")


def mask_columns(schema: pa.Schema) -> list[str]:
    """Columns of a ``training_data`` schema that change with a chip's mask, in the schema's order."""
    return [
        str(name) for name in schema.names if name in _ALWAYS or name == "msi_mask" or str(name).endswith(_INDEX_PLACES)
    ]


def _candidate_fields() -> list[pa.Field]:
    chips = training_data(ChipProfile())
    taken = [chips.field(name) for name in mask_columns(chips)]
    return [
        column("candidate_id", pa.string(), "uuid5 of chip and generation.", key=True),
        column("uuid", pa.string(), "Chip (training_data.uuid)."),
        column("input_set", pa.string(), "Inputs the chip had; with others it is not promoted."),
        column(
            "base_generation",
            pa.int32(),
            "Generation of the chip's mask that this one builds on; null where it had no mask.",
            null=True,
        ),
        *taken,
        column("replaced", pa.int32(), "Prompts on the chip whose earlier mask this generation replaces."),
        column("added", pa.int32(), "Detections that are prompts on the chip for the first time."),
        column("negatives", pa.int32(), "Rejected detections whose ground is taught as background."),
        column("changed_px", pa.int64(), "Pixels known before and after that changed between PV and background."),
        column("either_px", pa.int64(), "Pixels known before and after that are PV in one of the two."),
        column("run_id", pa.string(), "Run that made the row (table runs)."),
        column("created_at", TIME, "When the row was made."),
    ]


CANDIDATES = table_schema(
    "candidates",
    "What each backfill would put into training_data. One row is one chip and generation; promotion copies it.",
    _candidate_fields(),
)
