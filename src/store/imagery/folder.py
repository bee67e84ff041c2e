"""Files below a folder or prefix with their sizes and times, without opening any."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from store.places import is_remote, name_of
from utils.errors import ConfigError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""Suffixes of files that are rasters only where something places them."""

Stamp = tuple[int, int]
"""Size in bytes and modification time in nanoseconds."""

_PLACED_BY = (".wld", ".aux.xml", ".pgw", ".pngw", ".jgw", ".jpgw", ".jpegw")


class Folder:
    """A listing of a folder, or of a prefix of an object store, and all below it, taken once."""

    def __init__(self, root: str | Path) -> None:
        """List ``root``; folders that cannot be listed are in :attr:`refused`.

        Raises:
            ConfigError: nothing lies below a prefix.
            RasterUnreachableError: the object store does not answer.
            RasterDeniedError: the object store refuses the credentials.
        """
        self.root = root if is_remote(root) and isinstance(root, str) else str(Path(root).resolve())
        """The place listed, absolute."""
        self.refused: dict[str, str] = {}
        self._stamps: dict[str, Stamp] = {}
        self._families: dict[str, list[str]] = defaultdict(list)
        self._by_suffix: dict[str, list[str]] = defaultdict(list)
        for path, stamp in _listed(self.root) if is_remote(self.root) else self._walked(Path(self.root)):
            self._stamps[path] = stamp
            name = name_of(path)
            dot = name.rfind(".")
            if dot > 0:
                self._by_suffix[name[dot:].lower()].append(path)
            for dot in (k for k, letter in enumerate(name) if letter == "." and k):
                self._families[path[: len(path) - len(name) + dot]].append(path)

    def _walked(self, folder: Path) -> Iterator[tuple[str, Stamp]]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            self.refused[str(folder)] = f"ImageryError: the folder cannot be listed ({error}); check its permissions"
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._walked(Path(entry.path))
            elif entry.is_file():
                found = entry.stat()
                yield entry.path, (found.st_size, found.st_mtime_ns)

    def __contains__(self, path: str) -> bool:
        """Whether a file was there."""
        return path in self._stamps

    def files(self, suffixes: tuple[str, ...]) -> list[str]:
        """Files with one of ``suffixes`` (lower case, with dot), whatever their own case, sorted."""
        found = (path for suffix in suffixes for path in self._by_suffix[suffix])
        return sorted(found, key=lambda path: path.split("/"))

    def stamp(self, path: str) -> Stamp | None:
        """Size and time of a file, here or elsewhere on this machine; None for one that is not there, or remote."""
        if path in self._stamps:
            return self._stamps[path]
        try:
            found = Path(path).stat()
        except (OSError, ValueError):
            return None
        return found.st_size, found.st_mtime_ns

    def family(self, path: str) -> list[tuple[str, Stamp]]:
        """A file and all that share its name up to the suffix: world files, ``.prj``, ``.aux.xml``, ``.msk``."""
        name = name_of(path)
        before = path[: len(path) - len(name) + name.rfind(".")]
        return [(other, self._stamps[other]) for other in sorted(self._families[before])]

    def is_alone(self, path: str) -> bool:
        """Whether nothing listed beside a raster can belong to it, and it has no parts of its own."""
        return len(self.family(path)) <= 1 and not path.lower().endswith(".vrt")

    def is_placed(self, picture: str) -> bool:
        """Whether a world file or an ``.aux.xml`` lies beside a picture."""
        return any(other.lower().endswith(_PLACED_BY) for other, _ in self.family(picture))


def _listed(uri: str) -> Iterator[tuple[str, Stamp]]:
    from store.object_store import files_under  # noqa: PLC0415 - Arrow's file systems, not needed for folders

    found = files_under(uri)
    if not found:
        raise ConfigError(f"no imagery below {uri}: it holds no object; correct the bucket or the prefix")
    for file in found:
        yield file.uri, (file.size, file.modified_ns)
