"""What was read from files once, kept so that the next start opens none of them.

One Parquet file per imagery folder, in the cache folder of the user (``AEGIR_CACHE`` moves it) or at a place of choice.
An entry holds as long as the sizes and modification times it was made with; a lost or damaged index is made anew.
"""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import platformdirs
import pyarrow as pa
import pyarrow.parquet as pq

from store._durable_files import whole_file
from store.fingerprint import digest
from store.places import is_remote
from utils.errors import ConfigError

_VERSION = "1"
_YOUNG_NS = 2_000_000_000
_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("stamp", pa.string(), nullable=False),
        pa.field("facts", pa.string(), nullable=False),
    ],
    metadata={"aegir_imagery_index": _VERSION},
)
_Key = tuple[str, str]
"""Kind of fact, and path."""
_Entry = tuple[str, str]
"""Hash of the file's state, and the facts as JSON."""
_log = logging.getLogger(__name__)


def default_place(root: str | Path) -> Path:
    """The index file of an imagery folder in the user's cache folder."""
    cache = os.environ.get("AEGIR_CACHE") or platformdirs.user_cache_dir("aegir-lightning-lance", appauthor=False)
    return Path(cache) / "imagery" / f"{digest(str(root) if is_remote(root) else str(Path(root).resolve()))}.parquet"


class FileIndex:
    """Facts of files by kind of fact and path, valid for one state of the file."""

    def __init__(self, place: Path | None, *, required: bool = False) -> None:
        """Read the index.

        Args:
            place: its file; None keeps the facts in memory only.
            required: whether a place that cannot be written is an error; else it is a warning in the log.
        """
        self.place, self._required = place, required
        self._stored: dict[_Key, _Entry] = self._read(place) if place else {}
        self._fresh: dict[_Key, _Entry] = {}
        self._used: set[_Key] = set()
        self._young: set[_Key] = set()

    def get(self, kind: str, path: str, stamp: object) -> Any:
        """The facts of ``path`` in this state; None where they are not known."""
        key = (kind, path)
        state, facts = self._fresh.get(key) or self._stored.get(key, ("", ""))
        if state != digest(stamp):
            return None
        self._used.add(key)
        try:
            return json.loads(facts)
        except ValueError:
            _log.warning("the imagery index %s holds a damaged entry for %s, which is read again", self.place, path)
            return None

    def put(self, kind: str, path: str, stamp: object, facts: Any, *, newest_ns: int) -> None:
        """Remember facts of a file.

        Args:
            kind: what the facts are about.
            path: the file.
            stamp: its state.
            facts: plain values.
            newest_ns: latest modification time in that state; facts of a file touched less than two seconds ago are
                not kept, because it may change once more within the clock tick of its time.
        """
        key = (kind, path)
        self._fresh[key] = (digest(stamp), json.dumps(facts))
        young = time.time_ns() - newest_ns < _YOUNG_NS
        (self._young.add if young else self._young.discard)(key)

    def save(self) -> None:
        """Write what is new; entries of files that are gone are left out.

        Raises:
            ConfigError: the place was asked for and cannot be written.
        """
        if self.place is None:
            return
        held = {key: entry for key, entry in self._stored.items() if key in self._used or Path(key[1]).exists()}
        kept = {key: entry for key, entry in (held | self._fresh).items() if key not in self._young}
        if kept == self._stored:
            return
        rows = [(*key, *entry) for key, entry in sorted(kept.items())]
        columns = [pa.array([row[k] for row in rows], pa.string()) for k in range(len(_SCHEMA))]
        table = pa.Table.from_arrays(columns, schema=_SCHEMA)
        try:
            with whole_file(self.place) as part:
                pq.write_table(table, part, compression="zstd")
        except OSError as error:
            message = f"the imagery index {self.place} cannot be written ({error}); every start reads all rasters again"
            if self._required:
                raise ConfigError(f"{message}: set `index` to a place that can be written, or to null") from error
            _log.warning("%s", message)
            return
        self._stored = kept

    @staticmethod
    def _read(place: Path) -> "dict[_Key, _Entry]":
        if not place.is_file():
            return {}
        try:
            table = pq.read_table(place)
        except (OSError, pa.ArrowException) as error:
            _log.warning("the imagery index %s is damaged (%s) and is made anew", place, error)
            return {}
        if not table.schema.equals(_SCHEMA, check_metadata=True):
            _log.warning("the imagery index %s is of another version and is made anew", place)
            return {}
        kinds, paths, stamps, facts = (column.to_pylist() for column in table.columns)
        return dict(zip(zip(kinds, paths, strict=True), zip(stamps, facts, strict=True), strict=True))
