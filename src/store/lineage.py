"""Where a row came from: recipes (code + settings per stage), run records, and the chain ``explain`` prints."""

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from store import lance_io
from store.fingerprint import digest
from store.schemas import RUNS, SCHEMA_VERSION, TABLES
from store.sql import literal
from utils.errors import AegirError, ConfigError

OURS = ("utils", "store", "training", "dataflows")
_NO_ALGORITHM = {"store.schemas", "store.lance_io", "store.lineage", "utils.errors", *OURS}
_PACKAGES = (
    "apache-hamilton", "duckdb", "h3", "lancedb", "numpy", "opencv-python-headless", "pyarrow", "pylance", "pyproj",
    "rasterio", "numba", "h3ronpy", "shapely",
)  # fmt: skip


@cache
def module_code(module: str) -> str:
    """Hash of a module's syntax tree: comments, docstrings and layout do not count, helpers and constants do.

    Raises:
        ConfigError: there is no such module.
    """
    tree = ast.parse(_source(module))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        ):
            node.body = [statement for statement in body if not _is_text(statement)] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


@cache
def stage_code(modules: tuple[str, ...]) -> dict[str, str]:
    """Module → code hash for ``modules`` and every module of ours that they import, however far down.

    Modules without algorithms (schemas, the write door, errors) are left out;
    ``SCHEMA_VERSION`` stands for them.
    """
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found or module in _NO_ALGORITHM:
            continue
        found[module] = module_code(module)
        waiting += _imports(module)
    return dict(sorted(found.items()))


def recipe(modules: Sequence[str], settings: Mapping[str, Any], *upstream: str) -> str:
    """Hash of a stage: its code, its settings and the recipes it builds on."""
    return digest([SCHEMA_VERSION, stage_code(tuple(modules)), dict(settings), list(upstream)])


def package_versions() -> dict[str, str]:
    """Distribution → version of the packages whose code shapes rows."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
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
    code: Mapping[str, Mapping[str, str]]
    """Stage → module → code hash."""
    inputs: Mapping[str, Any]
    """Catalogue, snapshot, scenes and what else was read."""
    run_id: str = field(default_factory=lambda: uuid4().hex[:12])
    """Id of the run."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    """Start, UTC."""

    def record(self, uri: str | Path, status: str, counts: Mapping[str, Any] | None = None) -> None:
        """Write the run's row: status is running, done, failed or interrupted."""
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


def explain(uri: str | Path, uuid: str) -> dict[str, Any]:
    """The chain behind one chip: labels and prompts, images, masks and verdicts, code and settings, run.

    Args:
        uri: the store.
        uuid: id of the chip, or its first characters where they are unambiguous.

    Raises:
        TableNotFoundError: the store has no ``training_data``.
        AegirError: no chip, or more than one, has that id.
    """
    if not uuid or not set(uuid) <= set("0123456789abcdef-"):
        raise AegirError(f"{uuid!r} is no chip id: ids are hexadecimal with dashes")
    dataset = lance_io.open_table(uri, "training_data")
    pixels = {
        "vhr_image_chip",
        "msi_image_chip",
        "msi_scl",
        "msi_mask",
        "generated_mask",
        "prompt_geometry",
        "footprint",
    }
    columns = [name for name in dataset.schema.names if name not in pixels]
    rows = dataset.to_table(columns=columns, filter=f"uuid LIKE '{uuid}%'", limit=2).to_pylist()
    if len(rows) != 1:
        found = "no chip" if not rows else "more than one chip"
        raise AegirError(
            f"{found} of {uri} has an id that begins with {uuid!r}; `python -m store show training_data` lists ids"
        )
    row = rows[0]
    inputs = f"uuid = '{row['uuid']}' AND input_set = {literal(row['input_set'])}"
    prompts = lance_io.scan(uri, "prompts", _columns("prompts", but={"geometry", "label_geometry"}), inputs).to_pylist()
    made = f"uuid = '{row['uuid']}' AND mask_recipe = {literal(row['mask_recipe'])}"
    masks = lance_io.scan(uri, "masks", _columns("masks", but={"mask", "outline", "transform"}), made).to_pylist()
    asked = {prompt["prompt_id"] for prompt in prompts}
    masks = [mask for mask in masks if mask["prompt_id"] in asked]
    runs = lance_io.scan(uri, "runs", RUNS.names, f"run_id = {literal(row['run_id'])}").to_pylist()
    for run in runs:
        for column in ("config", "recipes", "code", "inputs", "packages", "counts"):
            run[column] = json.loads(run[column] or "null")
    found = (runs[0]["inputs"] or {}).get("scenes", {}) if runs else {}
    known = _scenes(uri, row, found)
    keys = (runs[0]["inputs"] or {}).get("datasets", {}) if runs else {}
    return {
        "chip": row,
        "prompts": prompts,
        "datasets": _datasets(uri, {prompt["dataset"] for prompt in prompts}, keys),
        "masks": masks,
        "scenes": known,
        "run": runs[0] if runs else None,
    }


def _datasets(uri: str | Path, names: set[str], keys: Mapping[str, str]) -> dict[str, dict[str, Any] | None]:
    """Dataset → its manifest as the run that made the chip knew it; None where the run recorded none."""
    wanted = sorted({keys[name] for name in names if name in keys})
    where = " OR ".join(f"dataset_key = {literal(key)}" for key in wanted)
    rows = lance_io.scan(uri, "datasets", _columns("datasets", but=set()), where).to_pylist() if wanted else []
    found = {row["dataset"]: row for row in rows}
    return {name: found.get(name) for name in sorted(names)}


def _scenes(
    uri: str | Path, chip: Mapping[str, Any], checksums: Mapping[str, Mapping[str, str]]
) -> list[dict[str, Any]]:
    """The chip's scenes as the run that made it found them."""
    wanted = []
    for kind in ("vhr", "msi"):
        for scene in chip.get(f"{kind}_scene_ids") or []:
            checksum = checksums.get(kind, {}).get(scene)
            as_found = f" AND kind = '{kind}' AND checksum = {literal(checksum)}" if checksum else ""
            wanted.append(f"(scene_id = {literal(scene)}{as_found})")
    columns = ["kind", "scene_id", "source", "sensor", "acquired_at", "assets", "checksum"]
    rows: list[dict[str, Any]] = lance_io.scan(uri, "scenes", columns, " OR ".join(wanted) or "false").to_pylist()
    return rows


def _columns(table: str, *, but: set[str]) -> list[str]:
    return [name for name in TABLES[table].names if name not in but]


def _source(module: str) -> str:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigError(f"no module {module!r}")
    return Path(spec.origin).read_text()


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _imports(module: str) -> list[str]:
    """Modules of ours that ``module`` imports at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(module, node)
            names |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
    return sorted(name for name in names if name.split(".")[0] in OURS and _is_module(name))


def _origin(module: str, node: ast.ImportFrom) -> str:
    """Absolute name of what a ``from … import`` in ``module`` names."""
    spec = find_spec(module)
    inside = module if spec is not None and spec.submodule_search_locations else module.rpartition(".")[0]
    return resolve_name("." * node.level + (node.module or ""), inside) if node.level else str(node.module)


@cache
def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
