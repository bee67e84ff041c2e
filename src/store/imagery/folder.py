"""Files below a folder with their sizes and times, without opening any."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""Suffixes of files that are rasters only where something places them."""

Stamp = tuple[int, int]
"""Size in bytes and modification time in nanoseconds."""

_PLACED_BY = (".wld", ".aux.xml", ".pgw", ".pngw", ".jgw", ".jpgw", ".jpegw")


class Folder:
    """A listing of a folder and all folders below it, taken once."""

    def __init__(self, root: Path) -> None:
        """List ``root``; folders that cannot be listed are in :attr:`refused`."""
        self.root = root
        self.refused: dict[str, str] = {}
        self._stamps: dict[str, Stamp] = {}
        self._families: dict[str, list[str]] = defaultdict(list)
        self._by_suffix: dict[str, list[str]] = defaultdict(list)
        for path, stamp in self._walked(root.resolve()):
            self._stamps[path] = stamp
            folder, name = os.path.split(path)
            dot = name.rfind(".")
            if dot > 0:
                self._by_suffix[name[dot:].lower()].append(path)
            for dot in (k for k, letter in enumerate(name) if letter == "." and k):
                self._families[f"{folder}{os.sep}{name[:dot]}"].append(path)

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

    def files(self, suffixes: tuple[str, ...]) -> list[Path]:
        """Files with one of ``suffixes`` (lower case, with dot), whatever their own case, sorted."""
        return sorted(Path(path) for suffix in suffixes for path in self._by_suffix[suffix])

    def stamp(self, path: str) -> Stamp | None:
        """Size and time of a file, here or elsewhere on this machine; None for one that is not there, or remote."""
        if path in self._stamps:
            return self._stamps[path]
        try:
            found = Path(path).stat()
        except (OSError, ValueError):
            return None
        return found.st_size, found.st_mtime_ns

    def family(self, path: Path) -> list[tuple[str, Stamp]]:
        """A file and all that share its name up to the suffix: world files, ``.prj``, ``.aux.xml``, ``.msk``."""
        return [(other, self._stamps[other]) for other in sorted(self._families[str(path.with_suffix(""))])]

    def is_placed(self, picture: Path) -> bool:
        """Whether a world file or an ``.aux.xml`` lies beside a picture."""
        return any(other.lower().endswith(_PLACED_BY) for other, _ in self.family(picture))
