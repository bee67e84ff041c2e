"""The folder of a lake's files, as its catalogue records it: a copied lake must not write into the original's."""

from pathlib import Path

import duckdb

from store import ducklake
from store.catalogue_place import place_of
from store.ducklake import LAKE
from store.sql import literal
from utils.errors import LakeWriteError


def check_data_path(catalog: str | Path) -> None:
    """Refuse a catalogue that is a copy whose files would be written into the original's folder.

    Raises:
        CatalogNotFoundError: there is no catalogue.
        LakeWriteError: the recorded data folder exists elsewhere, and one of the same name lies beside the catalogue.
    """
    place = place_of(catalog)
    if place.path is None:
        return
    with ducklake.connect(catalog) as connection:
        recorded = _recorded_path(connection)
    beside = place.path.parent / Path(recorded).name
    if Path(recorded).exists() and beside.exists() and beside.resolve() != Path(recorded).resolve():
        raise LakeWriteError(
            f"{place.name} records {recorded} as the folder of its files, and {beside} lies beside it: it looks like "
            "a copy, and writing would go into the original's folder; make the copy a lake of its own with "
            "`python -m dataflows write-back --adopt-files`"
        )


def adopt_files(catalog: str | Path) -> Path:
    """Make a copied catalogue a lake of its own: it records the folder beside it as the folder of its files.

    Raises:
        CatalogNotFoundError: there is no catalogue.
        LakeWriteError: it is on a server, no folder of that name lies beside it, or it cannot be written.
    """
    place = place_of(catalog)
    if place.path is None:
        raise LakeWriteError(f"{place.name} is on a server; no folder lies beside it")
    with ducklake.connect(catalog) as connection:
        recorded = _recorded_path(connection)
    beside = (place.path.parent / Path(recorded).name).resolve()
    if not beside.is_dir():
        raise LakeWriteError(f"no folder {beside} lies beside {place.name}; copy the lake's files there first")
    with ducklake.connect(None) as connection:
        kind = "" if place.kind == "duckdb" else f" (TYPE {place.kind})"
        try:
            if place.kind == "sqlite":
                connection.load_extension("sqlite_scanner")
            connection.execute(f"ATTACH {literal(str(place.path))} AS recorded{kind}")
            connection.execute(
                "UPDATE recorded.ducklake_metadata SET value = ? WHERE key = 'data_path'", [f"{beside}/"]
            )
        except duckdb.Error as error:
            raise LakeWriteError(f"{place.name} cannot be written: {error}") from error
    return beside


def _recorded_path(connection: duckdb.DuckDBPyConnection) -> str:
    """Folder of the lake's files as the catalogue records it, whatever it was attached with."""
    found = connection.execute(
        f"SELECT value FROM __ducklake_metadata_{LAKE}.ducklake_metadata WHERE key = 'data_path'"
    ).fetchone()
    return "" if found is None else str(found[0])
