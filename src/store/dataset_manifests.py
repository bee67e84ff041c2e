"""Where each dataset of labels comes from: DOI, licence, citation; read from settings, a file or a lake table."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from store import ducklake
from store.fingerprint import digest
from store.schemas import DATASETS
from store.sql import quoted
from utils.errors import ConfigError

UNKNOWN = "unknown"
"""Origin of a dataset nobody described."""

_ALIASES = {
    "license": "licence",
    "licence_name": "licence",
    "name": "title",
    "repo": "url",
    "repository": "url",
    "homepage": "url",
    "link": "url",
    "reference": "citation",
    "bibliographic_citation": "citation",
    "retrieved_at": "retrieved",
    "accessed": "retrieved",
    "access_date": "retrieved",
    "download_date": "retrieved",
}
_TABLE = "table:"


@dataclass(frozen=True, kw_only=True)
class DatasetManifest:
    """What is known of one dataset; None is not known."""

    dataset: str
    """Name of the dataset, as labels carry it."""
    doi: str | None = None
    """DOI, without ``https://doi.org/``."""
    title: str | None = None
    """Title."""
    licence: str | None = None
    """Licence, best as an SPDX identifier."""
    citation: str | None = None
    """How to cite it."""
    url: str | None = None
    """Where it lives."""
    version: str | None = None
    """Version or release."""
    retrieved: date | None = None
    """Day it was fetched."""
    extra: str | None = None
    """JSON of whatever else the manifest says."""
    origin: str = UNKNOWN
    """Where the manifest was read: settings, a file, a table, or ``unknown``."""

    @property
    def key(self) -> str:
        """Hash of dataset and content: another content is another row of ``datasets``."""
        return digest({f.name: getattr(self, f.name) for f in fields(self) if f.name != "origin"})

    @property
    def known(self) -> bool:
        """Whether anything is known."""
        return self.origin != UNKNOWN


_FIELDS = tuple(f.name for f in fields(DatasetManifest) if f.name not in ("dataset", "extra", "origin"))


def stated_manifests(datasets: Mapping[str, Any]) -> dict[str, DatasetManifest]:
    """Manifests in the settings, ``datasets: {name: {doi: …}}``.

    Raises:
        ConfigError: a key is unknown or a value of the wrong kind.
    """
    found = {}
    for name, values in datasets.items():
        if not isinstance(values, Mapping):
            raise ConfigError(f"datasets.{name} is a mapping such as {{doi: …, licence: …}}, got {values!r}")
        manifest = _manifest(str(name), values, "settings")
        if manifest.extra is not None:
            unknown = ", ".join(json.loads(manifest.extra))
            raise ConfigError(f"datasets.{name}: unknown {unknown}; known: {', '.join(_FIELDS)}")
        found[str(name)] = manifest
    return found


def read_manifests(
    datasets: Mapping[str, Any],
    manifest: str | None = None,
    *,
    catalog: str | None = None,
    snapshot: int | None = None,
) -> dict[str, DatasetManifest]:
    """Dataset name → manifest; what the settings say wins over the file or table, field by field.

    Args:
        datasets: manifests in the settings.
        manifest: JSON or YAML file, an object of dataset → manifest or a list of manifests with ``dataset``; or
            ``table:NAME`` of the catalogue, a row per dataset with a column ``dataset`` or ``dataset_name``.
        catalog: catalogue of the table.
        snapshot: its snapshot.

    Raises:
        ConfigError: the file or table cannot be read, or holds something else.
        LabelError: the catalogue cannot be read.
    """
    found: dict[str, DatasetManifest] = {}
    if manifest is not None:
        rows = _table_rows(manifest, catalog, snapshot) if manifest.startswith(_TABLE) else _file_rows(manifest)
        for name, values in rows.items():
            found[name] = _manifest(name, values, manifest if manifest.startswith(_TABLE) else Path(manifest).name)
    for name, stated in stated_manifests(datasets).items():
        given = {key: value for key in _FIELDS if (value := getattr(stated, key)) is not None}
        base = found.get(name, stated)
        origin = "settings" if name not in found else f"{base.origin}, settings"
        found[name] = replace(base, **given, origin=origin)
    return found


def manifests_of(names: Iterable[str], known: Mapping[str, DatasetManifest]) -> dict[str, DatasetManifest]:
    """A manifest for each dataset, unknown where there is none."""
    return {name: known.get(name, DatasetManifest(dataset=name)) for name in sorted(set(names))}


def manifest_table(manifests: Iterable[DatasetManifest], run_id: str) -> pa.Table:
    """Rows of the table ``datasets``."""
    rows = [
        {f.name: getattr(manifest, f.name) for f in fields(manifest)}
        | {"dataset_key": manifest.key, "run_id": run_id, "recorded_at": datetime.now(UTC)}
        for manifest in manifests
    ]
    return pa.Table.from_pylist(rows, schema=DATASETS)


def _manifest(name: str, values: Mapping[str, Any], origin: str) -> DatasetManifest:
    known: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for key, value in values.items():
        field = _ALIASES.get(str(key).lower(), str(key).lower())
        if value is None or value == "":
            continue
        if field not in _FIELDS or field in known:
            extra[str(key)] = value
        elif field == "retrieved":
            known[field] = _day(name, value)
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            known[field] = str(value).strip()
        else:
            raise ConfigError(f"manifest of {name}: {key} must be text, got {value!r}")
    if "doi" in known:
        known["doi"] = (
            known["doi"].removeprefix("https://doi.org/").removeprefix("http://doi.org/").removeprefix("doi:")
        )
    text = json.dumps(extra, sort_keys=True, default=str) if extra else None
    return DatasetManifest(dataset=name, origin=origin, extra=text, **known)


def _day(name: str, value: object) -> date:
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(str(value)[:10])
    except ValueError as error:
        raise ConfigError(f"manifest of {name}: retrieved is {value!r}; give a day such as 2024-05-31") from error


def _file_rows(place: str) -> dict[str, Mapping[str, Any]]:
    path = Path(place)
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"no manifest at {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is neither JSON nor YAML: {error}") from error
    if isinstance(values, list):
        return _by_name(values, str(path))
    if not isinstance(values, Mapping) or not all(isinstance(entry, Mapping) for entry in values.values()):
        raise ConfigError(f"{path} is no manifest; it is an object of dataset → {{doi, licence, citation, …}}")
    return {str(name): entry for name, entry in values.items()}


def _table_rows(manifest: str, catalog: str | None, snapshot: int | None) -> dict[str, Mapping[str, Any]]:
    name = manifest.removeprefix(_TABLE)
    if catalog is None:
        raise ConfigError(f"manifest {manifest} is in a lake, and `catalog` is missing")
    with ducklake.connect(catalog) as connection:
        at = ducklake.latest_snapshot(connection) if snapshot is None else int(snapshot)
        ducklake.table_columns(connection, name, at)
        sql = f"SELECT * FROM {ducklake.LAKE}.{quoted(name)} AT (VERSION => {at})"  # noqa: S608
        rows = ducklake.query(connection, sql).to_pylist()
    return _by_name(rows, manifest)


def _by_name(rows: list[Any], place: str) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        key = next((key for key in ("dataset", "dataset_name") if isinstance(row, Mapping) and row.get(key)), None)
        if key is None:
            raise ConfigError(f"{place}: every manifest names its `dataset`; got {row!r}")
        if row[key] in found:
            raise ConfigError(f"{place} describes {row[key]} twice")
        found[str(row[key])] = {name: value for name, value in row.items() if name != key}
    return found
