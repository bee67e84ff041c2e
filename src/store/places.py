"""Places: paths of this machine, and URIs of object stores and web servers, taken apart and put together."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from utils.errors import ConfigError
from utils.redaction import revealed, sealed_url

OBJECT_STORES: Final = ("s3", "gs", "az")
"""URI schemes of object stores: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage."""

_WEB = ("http", "https")
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True, kw_only=True)
class RemotePlace:
    """A URI taken apart."""

    scheme: str
    """Scheme, lower case."""
    bucket: str
    """Bucket, container, or host and port of a web server."""
    key: str
    """Key or prefix without slashes at its ends; path and query on a web server."""

    @property
    def uri(self) -> str:
        """The place as one text."""
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")


def is_remote(place: str | Path) -> bool:
    """Whether the place is a URI of another machine."""
    found = _SCHEME.match(str(place))
    return bool(found) and found[1].lower() != "file"  # type: ignore[index]


def is_web(place: str | Path) -> bool:
    """Whether the place is on a web server."""
    return is_remote(place) and remote_place(place).scheme in _WEB


def remote_place(uri: str | Path) -> RemotePlace:
    """A URI taken apart.

    Raises:
        ConfigError: the scheme is unknown, no bucket or host follows it, or the bucket holds a password.
    """
    text = revealed(str(uri) if isinstance(uri, Path) else uri)
    found = _SCHEME.match(text)
    scheme = found[1].lower() if found else ""
    if scheme not in (*OBJECT_STORES, *_WEB):
        raise ConfigError(
            f"{sealed_url(text)}: the scheme {scheme!r} is unknown; give a path, "
            f"or a URI that begins with {', '.join(f'{name}://' for name in (*OBJECT_STORES, *_WEB))}"
        )
    bucket, _, key = text[len(scheme) + 3 :].partition("/")
    if scheme in OBJECT_STORES and "@" in bucket:
        raise ConfigError(
            f"{scheme}://***: credentials do not belong into a URI; put them into the environment "
            "or into `storage_options` (docs/object_stores.md)"
        )
    if not bucket:
        raise ConfigError(f"{sealed_url(text)} names no bucket; give {scheme}://bucket/prefix")
    return RemotePlace(scheme=scheme, bucket=bucket, key=key if scheme in _WEB else key.strip("/"))


def normalised(place: str | Path) -> str:
    """A place as settings hold it: scheme in lower case, no slash at the end, passwords and signatures sealed.

    Raises:
        ConfigError: it is a URI nothing here can open.
    """
    text = str(place) if isinstance(place, Path) else place
    if not is_remote(text):
        return unquote(urlsplit(text).path) if _SCHEME.match(text) else text
    return sealed_url(remote_place(text).uri)


def name_of(place: str) -> str:
    """The last part of a place: ``scene.tif``; a query is none of it."""
    if not is_remote(place):
        return Path(place).name
    text = revealed(place).partition("?")[0] if is_web(place) else place
    return text.rstrip("/").rpartition("/")[2]


def stem_of(place: str) -> str:
    """The last part without its suffix."""
    return Path(name_of(place)).stem


def folder_of(place: str) -> str:
    """The folder or prefix a file is in."""
    if not is_remote(place):
        return str(Path(place).parent)
    text = revealed(place).partition("?")[0] if is_web(place) else place
    return text.rpartition("/")[0]


def below(place: str, root: str) -> str:
    """Where a place lies below ``root``, with forward slashes; the place itself where it does not."""
    if is_remote(place):
        return place.removeprefix(f"{root.rstrip('/')}/")
    return Path(place).relative_to(root).as_posix()


def joined(folder: str, href: str) -> str:
    """A link of a file in ``folder``: a URI stays as it is, a path is relative to the folder."""
    if href.startswith("/vsi"):
        # a path of GDAL's own
        return href
    if is_remote(href):
        return normalised(href)
    if not is_remote(folder):
        return str(
            (
                Path(folder) / unquote(urlsplit(href).path) if href.startswith("file://") else Path(folder) / href
            ).resolve()
        )
    place = remote_place(folder)
    key = os.path.normpath(f"/{place.key}/{href}" if not href.startswith("/") else href).lstrip("/")
    return f"{place.scheme}://{place.bucket}/{key}"
