"""Short hashes of values and of files."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from store.places import is_remote, is_web
from utils.errors import RasterReadError, RasterUnreachableError

_ENDS = 1 << 16


def digest(value: object) -> str:
    """First 16 hexadecimal digits of the SHA-256 of ``value`` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def checksum(path: str | Path) -> str:
    """Cheap fingerprint of a local file: its size and its first and last 64 KiB.

    Raises:
        OSError: the file cannot be read.
    """
    place = Path(path)
    size = place.stat().st_size
    hasher = hashlib.sha256(f"{size}".encode())
    with place.open("rb") as file:
        hasher.update(file.read(_ENDS))
        file.seek(max(0, size - _ENDS))
        hasher.update(file.read())
    return hasher.hexdigest()[:16]


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a whole local file, read in blocks; a file that has not changed since is not read again.

    Raises:
        OSError: the file cannot be read.
    """
    place = Path(path).resolve()
    stamp = place.stat()
    return _sha256(place, stamp.st_size, stamp.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(place: Path, size: int, changed_ns: int) -> str:  # noqa: ARG001 - they tell versions of the file apart
    with place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place_checksum(place: str) -> str:
    """:func:`checksum` of a file here or in an object store; the place itself where it cannot be read.

    A file of a web server is known by its place alone.

    Raises:
        RasterUnreachableError: the object store does not answer.
    """
    if is_web(place):
        return place
    try:
        return _ends_checksum(place) if is_remote(place) else checksum(place)
    except RasterUnreachableError:
        raise
    except (OSError, RasterReadError) as error:
        return f"{place}: {type(error).__name__}"


def text_of(place: str) -> str:
    """The content of a text file, here or on another machine.

    Raises:
        OSError: it cannot be read here.
        RasterReadError: it cannot be read there.
        UnicodeDecodeError: it is no text.
    """
    if not is_remote(place):
        return Path(place).read_text()
    from store.object_store import read_bytes  # noqa: PLC0415 - Arrow's file systems, not needed for files of here

    return read_bytes(place).decode()


def _ends_checksum(uri: str) -> str:
    from store.object_store import ends  # noqa: PLC0415 - as above

    size, first, last = ends(uri, _ENDS)
    return hashlib.sha256(f"{size}".encode() + first + last).hexdigest()[:16]
