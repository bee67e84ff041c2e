"""Labels in plain files as DuckDB relations: Parquet, CSV, and everything GDAL's vector drivers read."""

import glob
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from store.fingerprint import checksum
from store.label_mapping import LabelTable
from store.sql import literal, literals
from utils.errors import LabelFileError

_PARQUET = (".parquet", ".geoparquet", ".pq")
_TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_VECTOR = (".geojson", ".json", ".geojsonl", ".geojsons", ".ndjson", ".gpkg", ".shp", ".fgb", ".zip", ".kml", ".gml")
SUFFIXES = (*_PARQUET, *_TEXT, *_VECTOR)
"""Endings of files that can hold labels."""


@dataclass(frozen=True, kw_only=True)
class Relation:
    """Something labels can be selected from."""

    sql: str
    """What stands after FROM."""
    columns: dict[str, str]
    """Column name → DuckDB type."""
    untyped: bool = False
    """Whether every column is text, whatever it means."""
    needs_crs: bool = False
    """Whether a geometry column without CRS is in an unknown one, rather than in EPSG:4326."""
    files: list[Path] = field(default_factory=list)
    """Files that are read."""


def label_files(place: str) -> list[Path]:
    """Files that a file, folder or glob pattern stands for, in order.

    Raises:
        LabelFileError: there is none, or a file is of an unknown kind.
    """
    path = Path(place)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.name.lower().endswith(SUFFIXES) and p.is_file())
    elif path.is_file():
        found = [path]
    else:
        found = sorted(Path(p) for p in glob.glob(place, recursive=True) if Path(p).is_file())  # noqa: PTH207 - absolute patterns
    if not found:
        raise LabelFileError(f"no label file at {place}; give a file, a folder or a pattern such as labels/*.geojson")
    for file in found:
        if not file.name.lower().endswith(SUFFIXES):
            raise LabelFileError(f"{file} is of no known kind; labels are read from {', '.join(SUFFIXES)}")
    return found


def file_checksums(mapping: LabelTable) -> dict[str, str]:
    """File → fingerprint (size and ends) of a mapping's files.

    Raises:
        LabelFileError: there is none.
    """
    return {str(file): checksum(file) for file in label_files(str(mapping.file))}


def file_relation(connection: duckdb.DuckDBPyConnection, mapping: LabelTable) -> Relation:
    """The rows of a mapping's files, columns matched by name.

    Raises:
        LabelFileError: a file is missing, cannot be read, lacks the layer, or files are of several kinds or CRS.
    """
    files = label_files(str(mapping.file))
    empty = [str(file) for file in files if file.is_file() and not file.stat().st_size]
    if empty:
        raise LabelFileError(f"{', '.join(empty)} holds nothing, not even a header; remove it or write it again")
    kinds = {_reader(file) for file in files}
    if len(kinds) > 1:
        raise LabelFileError(f"{mapping.file} holds files of several kinds; give each kind an entry of its own")
    kind = kinds.pop()
    if kind != "gdal":
        listed = literals(map(str, files))
        options = "union_by_name = true" + (", all_varchar = true, header = true" if kind == "csv" else "")
        options += ", delim = '\\t'" if ".tsv" in files[0].name.lower() else ""
        sql = f"read_{kind}([{listed}], {options})"
    else:
        sql = " UNION ALL BY NAME ".join(f"SELECT * FROM {_st_read(connection, mapping, file)}" for file in files)  # noqa: S608
        sql = f"({sql})"
        _check_one_crs(connection, mapping, files)
    try:
        described: list[tuple[Any, ...]] = connection.execute(f"DESCRIBE SELECT * FROM {sql}").fetchall()  # noqa: S608
    except duckdb.Error as error:
        raise LabelFileError(f"{mapping.file} cannot be read: {error}") from error
    return Relation(
        sql=sql,
        columns={str(name): str(type_) for name, type_, *_ in described},
        untyped=kind == "csv",
        needs_crs=kind == "gdal",
        files=files,
    )


def _reader(file: Path) -> str:
    name = file.name.lower()
    return "parquet" if name.endswith(_PARQUET) else "csv" if name.endswith(_TEXT) else "gdal"


def _st_read(connection: duckdb.DuckDBPyConnection, mapping: LabelTable, file: Path) -> str:
    """The table function call for one file; its layer is looked up first, because ST_Read crashes on an unknown one."""
    layers = {str(layer["name"]): layer for layer in _layers(connection, file)}
    if mapping.layer is not None and mapping.layer not in layers:
        raise LabelFileError(f"{file} has no layer {mapping.layer!r}; it has {', '.join(layers) or '(none)'}")
    if mapping.layer is None and len(layers) != 1:
        raise LabelFileError(f"{file} has {len(layers)} layers ({', '.join(layers)}); name one with `layer`")
    layer = mapping.layer or next(iter(layers))
    return f"ST_Read({literal(_gdal_path(file))}, layer = {literal(layer)})"


def _layers(connection: duckdb.DuckDBPyConnection, file: Path) -> list[dict[str, Any]]:
    try:
        # ST_Read_Meta crashes on what GDAL cannot open; ST_Read says so
        connection.execute(f"DESCRIBE SELECT * FROM ST_Read({literal(_gdal_path(file))})")  # noqa: S608
        row = connection.execute(f"SELECT layers FROM ST_Read_Meta({literal(_gdal_path(file))})").fetchone()  # noqa: S608
    except duckdb.Error as error:
        raise LabelFileError(f"{file} cannot be read: {error}") from error
    if row is None:
        raise LabelFileError(f"{file} cannot be read as vector data; GDAL has no driver that opens it")
    return list(row[0] or [])


def _check_one_crs(connection: duckdb.DuckDBPyConnection, mapping: LabelTable, files: list[Path]) -> None:
    found: dict[str, Path] = {}
    for file in files if len(files) > 1 else []:
        rows = connection.execute(f"DESCRIBE SELECT * FROM {_st_read(connection, mapping, file)}").fetchall()  # noqa: S608
        found |= {str(kind): file for _, kind, *_ in rows if str(kind).startswith("GEOMETRY")}
    if len(found) > 1:
        shown = "; ".join(f"{file}: {kind}" for kind, file in found.items())
        raise LabelFileError(f"files of {mapping.file} differ in CRS ({shown}); give each CRS an entry of its own")


def _gdal_path(file: Path) -> str:
    return f"/vsizip/{file}" if file.name.lower().endswith(".zip") else str(file)
