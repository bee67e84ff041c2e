"""Short hashes of values and of files."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

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
    """:func:`checksum` of a local file; the place itself where it is a URI or cannot be read."""
    if "://" in place:
        return place
    try:
        return checksum(place)
    except OSError as error:
        return f"{place}: {type(error).__name__}"
