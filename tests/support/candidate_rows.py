"""Rows of ``candidates`` for the train chips of a small store, made from what the store holds."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from store import lance_io
from store.backfill_schemas import CANDIDATES, mask_columns
from store.schemas import training_data
from support.training_tables import PROFILE

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def candidates(store, generation, **changes):
    schema = training_data(PROFILE)
    names = [name for name in mask_columns(schema) if name in CANDIDATES.names]
    rows = lance_io.scan(store, "training_data", ["uuid", "input_set", *names], "split = 'train'").to_pylist()
    told = {
        "generation": generation,
        "mask_recipe": f"recipe-{generation}",
        "weight": 2.0,
        "generated_mask": np.full(PROFILE.height * PROFILE.width, generation % 2, np.uint8).tobytes(),
        "pv_fraction": float(generation % 2),
        "base_generation": 0,
        "replaced": 0,
        "added": 1,
        "negatives": 0,
        "changed_px": 1,
        "either_px": 2,
        "run_id": "run",
        "created_at": NOW,
    }
    made = [row | told | {"candidate_id": f"{row['uuid']}|{generation}"} | changes for row in rows]
    lance_io.write(store, "candidates", pa.Table.from_pylist(made, schema=CANDIDATES))


def rows_of(store, name="training_data", version=None):
    columns = [c for c in lance_io.open_table(store, name).schema.names if "image_chip" not in c]
    return sorted(lance_io.scan(store, name, columns, version=version).to_pylist(), key=lambda row: row["uuid"])
