"""Where a row came from: recipes (code + settings per stage), run records, and the chain ``explain`` prints."""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from store import lance_io
from store.chains import explain
from store.code_hash import StageCode, stage_code
from store.fingerprint import digest
from store.schemas import RUNS, SCHEMA_VERSION, TABLES
from utils.errors import TableNotFoundError
from utils.failures import interrupted

__all__ = ["Run", "explain", "package_versions", "recipe", "stage_code", "table_versions"]

_PACKAGES = (
    "apache-hamilton", "duckdb", "h3", "lancedb", "numpy", "opencv-python-headless", "pyarrow", "pylance", "pyproj",
    "rasterio", "numba", "h3ronpy", "shapely",
)  # fmt: skip


def recipe(code: StageCode, settings: Mapping[str, Any], *upstream: str) -> str:
    """Hash of a stage: its code, its settings and the recipes it builds on."""
    return digest([SCHEMA_VERSION, code, dict(settings), list(upstream)])


def package_versions() -> dict[str, str]:
    """Distribution → version of the packages whose code shapes rows; and ``python``."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def table_versions(uri: str | Path) -> dict[str, int]:
    """Table → newest version, for the tables the store holds."""
    versions = {}
    for name in sorted(TABLES):
        try:
            versions[name] = lance_io.open_table(uri, name).version
        except TableNotFoundError:
            continue
    return versions


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a flow, as it stands in the table ``runs``."""

    flow: str
    """Flow name."""
    build_config: str
    """Hash of the settings that shape rows."""
    config: Mapping[str, Any]
    """All settings."""
    recipes: Mapping[str, str]
    """Stage → recipe."""
    code: Mapping[str, StageCode]
    """Stage → module → definition → hash of its code."""
    inputs: Mapping[str, Any]
    """Catalogue, snapshot, scenes, table versions, weights and what else was read."""
    run_id: str = field(default_factory=lambda: uuid4().hex[:12])
    """Id of the run."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    """Start, UTC."""

    def record(self, uri: str | Path, status: str, counts: Mapping[str, Any] | None = None) -> None:
        """Write the run's row: status as in the table's column."""
        row = {
            "run_id": self.run_id,
            "flow": self.flow,
            "status": status,
            "started_at": self.started_at,
            "finished_at": None if status == "running" else datetime.now(UTC),
            "build_config": self.build_config,
            "config": json.dumps(self.config, sort_keys=True, default=str),
            "recipes": json.dumps(self.recipes, sort_keys=True),
            "code": json.dumps(self.code, sort_keys=True),
            "inputs": json.dumps(self.inputs, sort_keys=True, default=str),
            "packages": json.dumps(package_versions(), sort_keys=True),
            "counts": None if counts is None else json.dumps(counts, sort_keys=True),
        }
        lance_io.write(uri, "runs", pa.Table.from_pylist([row], schema=RUNS))

    def settle(self, uri: str | Path, status: str, counts: Mapping[str, Any]) -> None:
        """Write how the run ended; one interrupt on the way does not leave it unsaid, and is not passed on."""
        try:
            self.record(uri, status, counts)
        except BaseException as error:
            if not interrupted(error):
                raise
            self.record(uri, status, counts)
