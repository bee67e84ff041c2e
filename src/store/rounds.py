"""Rows of ``rounds``, the flywheel's ledger: one row is one round, rewritten as its stages end."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid5

import pyarrow as pa

from store import lance_io
from store.schemas import TABLES
from store.sql import literal
from utils.geo import CHIP_NAMESPACE

_MAPS = ("stages", "counts", "metrics", "seconds", "bytes")


@dataclass(kw_only=True)
class Round:
    """One round of a flywheel, as it stands in the ledger."""

    flywheel_id: str
    """Hash of the flywheel's settings."""
    number: int
    """Number of the round; 0 is the model before any discovery."""
    model: str
    """Checkpoint the round searches with; empty before there is one."""
    status: str = "running"
    """running, done, or refused where the gate kept the generation back."""
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Stage → what it left, for later stages and for reruns; finished stages only."""
    table_version: int = 0
    """Version of ``training_data`` the model was trained on; 0 before there is one."""
    generation: int | None = None
    """Generation of masks the round made."""
    promoted: bool | None = None
    """Whether it was promoted."""
    tag: str | None = None
    """Tag of ``training_data`` after the promotion."""
    counts: dict[str, float] = field(default_factory=dict)
    """Counted things by name."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Measures on frozen test ground, by name."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage → time it took."""
    bytes: dict[str, int] = field(default_factory=dict)
    """Stage → bytes written."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    """Start of the round."""
    updated_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    """Last change of the row."""

    @property
    def round_id(self) -> str:
        """uuid5 of flywheel and number."""
        return str(uuid5(CHIP_NAMESPACE, f"round|{self.flywheel_id}|{self.number}"))


def write_round(store: str | Path, row: Round) -> None:
    """Bring the ledger's row of a round up to date.

    Raises:
        StoreNotWritableError: the store cannot be written.
    """
    row.updated_at = datetime.now(UTC)
    values = {name: value for name, value in vars(row).items() if name not in (*_MAPS, "number")}
    values |= {"round_id": row.round_id, "round": row.number}
    values |= {name: sorted(getattr(row, name).items()) for name in _MAPS if name != "stages"}
    values["stages"] = [(name, json.dumps(left, sort_keys=True)) for name, left in sorted(row.stages.items())]
    lance_io.write(store, "rounds", pa.Table.from_pylist([values], schema=TABLES["rounds"]))


def read_rounds(store: str | Path, flywheel_id: str | None = None) -> list[Round]:
    """Rounds of one flywheel, or of the one whose row changed last, by number; none where there is none."""
    where = None if flywheel_id is None else f"flywheel_id = {literal(flywheel_id)}"
    rows = lance_io.scan(store, "rounds", TABLES["rounds"].names, where).to_pylist()
    if not rows:
        return []
    newest = max(rows, key=lambda row: row["updated_at"])["flywheel_id"]
    return sorted((_round(row) for row in rows if row["flywheel_id"] == newest), key=lambda row: row.number)


def _round(row: Mapping[str, Any]) -> Round:
    values = {name: value for name, value in row.items() if name not in ("round_id", "round")}
    values |= {name: dict(row[name]) for name in _MAPS}
    values["stages"] = {name: json.loads(text) for name, text in values["stages"].items()}
    return Round(**values, number=row["round"])
