"""Short hashes of values and of files."""

import hashlib
import json
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


def place_checksum(place: str) -> str:
    """:func:`checksum` of a local file; the place itself where it is a URI or cannot be read."""
    if "://" in place:
        return place
    try:
        return checksum(place)
    except OSError as error:
        return f"{place}: {type(error).__name__}"
