"""Rasters opened by GDAL, here or in an object store, and kept open between reads."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Final, TypeVar

import rasterio
from rasterio.errors import RasterioError
from rasterio.session import Session

from store.places import is_remote, is_web, remote_place
from store.remote_errors import raster_error, trouble_of
from store.storage_options import gdal_options
from utils.errors import RasterDeniedError, RasterReadError, RasterUnreachableError
from utils.redaction import redacted, revealed, sealed_url

ATTEMPTS_S: Final = (0.3, 1.5)
"""Seconds to wait before a remote raster is opened and read again, on top of GDAL's own retries of one request."""

_PREFIXES = {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/"}
T = TypeVar("T")


class _Redacting(logging.Filter):
    """Takes secrets out of what rasterio logs of GDAL's messages, which hold whole URLs."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), ()
        return True


for _name in ("rasterio._env", "rasterio._err", "rasterio._io", "rasterio._base", "rasterio.session", "rasterio.env"):
    logging.getLogger(_name).addFilter(_Redacting())


class _Credentials(Session):  # type: ignore[misc]
    """Hands options of GDAL to a rasterio environment, which takes credentials from sessions alone."""

    def __init__(self, options: dict[str, str]) -> None:
        self._options = options

    @classmethod
    def hascreds(cls, config: dict[str, Any]) -> bool:  # noqa: ARG003 - rasterio calls it so
        """Nothing else is to look for credentials."""
        return True

    def get_credential_options(self) -> dict[str, str]:
        return self._options


def gdal_path(place: str) -> str:
    """What GDAL calls a place."""
    if not is_remote(place):
        return place
    found = remote_place(place)
    return f"/vsicurl/{revealed(place)}" if is_web(place) else f"{_PREFIXES[found.scheme]}{found.bucket}/{found.key}"


def place_of(path: str) -> str:
    """The place GDAL calls ``path``."""
    if path.startswith("/vsicurl/"):
        return sealed_url(path.removeprefix("/vsicurl/"))
    for scheme, prefix in _PREFIXES.items():
        if path.startswith(prefix):
            return f"{scheme}://{path.removeprefix(prefix)}"
    return path


def environment(place: str, *, alone: bool = False) -> Any:
    """The GDAL environment a place is opened, read and closed in; nothing for a path of this machine.

    Args:
        place: path or URI.
        alone: whether no file beside the raster belongs to it, so that GDAL need not look for one.
    """
    if not is_remote(place):
        return nullcontext()
    # a web server lists no folders
    listing = "EMPTY_DIR" if alone or is_web(place) else "FALSE"
    return rasterio.Env(session=_Credentials(gdal_options(place) | {"GDAL_DISABLE_READDIR_ON_OPEN": listing}))


def read_once(place: str, read: Callable[[rasterio.DatasetReader], T], *, alone: bool = False) -> T:
    """Open a raster, read from it, close it.

    Raises:
        RasterReadError: it is missing, corrupt or truncated, or (its sub-classes) cannot be reached.
    """

    def attempt() -> T:
        with environment(place, alone=alone), rasterio.open(gdal_path(place)) as raster:
            return read(raster)

    return _persistent(place, attempt)


class OpenRasters:
    """At most ``limit`` open rasters, the least recently used closed first."""

    def __init__(self, limit: int = 64) -> None:
        """Nothing is open yet."""
        self._limit = limit
        self._lock = threading.RLock()
        self._handles: OrderedDict[str, rasterio.DatasetReader] = OrderedDict()

    def __getitem__(self, href: str) -> rasterio.DatasetReader:
        """The raster at ``href``, opened if need be.

        Raises:
            RasterioError: it cannot be opened.
        """
        if href in self._handles:
            self._handles.move_to_end(href)
            return self._handles[href]
        while len(self._handles) >= self._limit:
            self._close(*self._handles.popitem(last=False))
        self._handles[href] = rasterio.open(gdal_path(href))
        return self._handles[href]

    def __len__(self) -> int:
        """How many are open."""
        return len(self._handles)

    def read(self, href: str, read: Callable[[rasterio.DatasetReader], T], *, alone: bool = False) -> T:
        """Read from the raster at ``href``; threads take turns, because GDAL's handles serve one at a time.

        Raises:
            RasterReadError: it is missing, corrupt or truncated, or (its sub-classes) cannot be reached.
        """

        def attempt() -> T:
            try:
                with self._lock, environment(href, alone=alone):
                    return read(self[href])
            except RasterioError:
                self.forget(href)
                raise

        return _persistent(href, attempt)

    def forget(self, href: str) -> None:
        """Close one raster, whose file may have changed."""
        if href in self._handles:
            self._close(href, self._handles.pop(href))

    def close(self) -> None:
        """Close them all."""
        while self._handles:
            self._close(*self._handles.popitem())

    @staticmethod
    def _close(href: str, raster: rasterio.DatasetReader) -> None:
        # GDAL looks up at closing whether it is to forget what it cached
        with environment(href):
            raster.close()


def _persistent(place: str, attempt: Callable[[], T]) -> T:
    """What ``attempt`` returns; that of a remote place is repeated while its server may yet answer."""
    waits = iter(ATTEMPTS_S if is_remote(place) else ())
    while True:
        try:
            return attempt()
        except RasterioError as error:
            failed = _failure(place, error)
            if not is_remote(place):
                raise failed from error
        wait = next(waits, None)
        if wait is None or isinstance(failed, RasterDeniedError) or _is_gone(failed):
            raise failed from None
        time.sleep(wait)


def _is_gone(error: RasterReadError) -> bool:
    return type(error) is RasterReadError and trouble_of(error) in ("missing", "no bucket")


def _failure(place: str, error: RasterioError) -> RasterReadError:
    """The error as one of ours; a remote raster that looks broken may have been cut short on its way."""
    if not is_remote(place):
        return RasterReadError(f"{place}: cannot be read ({error}); replace or remove the file")
    found = raster_error(place, error)
    if isinstance(found, RasterDeniedError | RasterUnreachableError) or _is_gone(found) or is_web(place):
        return found
    from store.object_store import ends  # noqa: PLC0415 - Arrow's file systems, asked only when something is wrong

    try:
        ends(place, 1)
    except RasterReadError as answer:
        return answer
    return found
