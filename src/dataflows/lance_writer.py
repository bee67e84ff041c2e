"""The last stage: rows get their provenance and go to the store."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid5

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hamilton.function_modifiers import datasaver, tag

from store.label_mapping import label_place
from store.partition_rows import PartitionRows
from store.schemas import PROMPTS, masks, training_data
from utils.errors import NodataError, NoImageryError
from utils.failures import Failure
from utils.geo import CHIP_NAMESPACE
from utils.types import ChipProfile

WITHOUT_DATA = frozenset({NodataError.__name__, NoImageryError.__name__})
"""Error types of chips that hold no data."""

_IN_FORCE = {"retired_at": None, "retired_snapshot": None}
_UNCALIBRATED = {"quality": None, "calibration": None}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What every row of a run has in common."""

    run_id: str
    """The run (table ``runs``)."""
    build_config: str
    """Hash of the settings that shape rows."""
    recipes: dict[str, str]
    """Stage (image, mask, index) → recipe."""
    mask_backend: str
    """Mask backend (registry name)."""
    label_catalog: str | None
    """DuckLake catalogue of label tables, without passwords; None where all labels are in files."""
    label_snapshot: int | None
    """Its snapshot; None without a catalogue."""
    margin_share: float
    """Margin added to label boxes, as a share of their sides."""
    generation: int = 0
    """Generation of masks this run makes."""


@tag(stage="store", table="training_data")
def sample_table(training_samples: list[dict[str, Any]], provenance: Provenance, chip_profile: ChipProfile) -> pa.Table:
    """Rows of ``training_data`` with recipes and run, in the profile's schema."""
    stamp = {
        "mask_source": "machine",
        "generation": provenance.generation,
        "image_recipe": provenance.recipes["image"],
        "mask_recipe": provenance.recipes["mask"],
        "index_recipe": provenance.recipes["index"],
        "build_config": provenance.build_config,
        "run_id": provenance.run_id,
        "created_at": datetime.now(UTC),
    }
    return _table([row | stamp for row in training_samples], training_data(chip_profile))


@tag(stage="store", table="masks")
def mask_table(mask_rows: list[dict[str, Any]], provenance: Provenance, chip_profile: ChipProfile) -> pa.Table:
    """Rows of ``masks`` with id, recipe and run."""
    recipe, generation = provenance.recipes["mask"], provenance.generation
    stamp = {
        "generation": generation,
        "backend": provenance.mask_backend,
        "mask_recipe": recipe,
        "run_id": provenance.run_id,
        "created_at": datetime.now(UTC),
        **_IN_FORCE,
    }
    rows = [
        _UNCALIBRATED
        | row
        | stamp
        | {"mask_id": str(uuid5(CHIP_NAMESPACE, f"{row['prompt_id']}|{row['uuid']}|{generation}|{recipe}"))}
        for row in mask_rows
    ]
    return _table(rows, masks(chip_profile))


@tag(stage="store", table="prompts")
def prompt_table(prompts: pa.Table, training_samples: list[dict[str, Any]], provenance: Provenance) -> pa.Table:
    """Rows of ``prompts`` for the chips that were made."""
    made = {row["uuid"]: row["input_set"] for row in training_samples}
    stamp = {
        "margin_share": provenance.margin_share,
        "run_id": provenance.run_id,
        "created_at": datetime.now(UTC),
        **_IN_FORCE,
    }
    asked = prompts.drop_columns(["utm_geometry"]).rename_columns({"area_m2": "label_area_m2"})
    rows = asked.filter(pc.is_in(asked["uuid"], pa.array(made, pa.string()))).to_pylist()
    for row in rows:
        row["input_set"] = made[row["uuid"]]
        place = label_place(row["label_table"], provenance.label_catalog, provenance.label_snapshot)
        row["label_catalog"], row["label_snapshot"] = place
    return _table([row | stamp for row in rows], PROMPTS)


@tag(stage="store")
@datasaver()
def sample_write(
    partition: int,
    sample_table: pa.Table,
    mask_table: pa.Table,
    prompt_table: pa.Table,
    chip_failures: list[Failure],
    mask_failures: list[Failure],
    chip_plan: pa.Table,
    commit_buffer: PartitionRows,
) -> dict:  # type: ignore[type-arg]
    """Hand one partition's rows to the commit buffer and return a receipt: counts, never pixels.

    A background chip that turns out to hold no data is not taken, which is no failure; ``errors`` remembers it.
    """
    failures = [*chip_failures, *mask_failures]
    commit_buffer.add(
        samples=sample_table, masks=mask_table, prompts=prompt_table, failures=failures, partition=partition
    )
    verdicts = mask_table["verdict"].to_pylist()
    background = set(chip_plan.filter(pc.not_equal(chip_plan["chip_role"], "labelled"))["uuid"].to_pylist())
    without_data = {f.uuid for f in failures if f.error_type in WITHOUT_DATA and f.uuid in background}
    return {
        "partition": partition,
        "chips": len(sample_table),
        "failed": len({failure.uuid for failure in failures} - without_data),
        "not_taken": len(without_data),
        **{verdict: verdicts.count(verdict) for verdict in ("accept", "review", "reject", "not_in_chip")},
    }


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows of scalars and arrays as an Arrow table; tensor columns are stacked without a Python list between."""
    if not rows:
        return schema.empty_table()
    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if isinstance(field.type, pa.FixedShapeTensorType):
            flat = pa.array(np.stack(values).reshape(-1), field.type.value_type)
            storage = pa.FixedSizeListArray.from_arrays(flat, field.type.storage_type.list_size)
            columns.append(pa.ExtensionArray.from_storage(field.type, storage))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)
