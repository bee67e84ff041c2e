"""Files in object stores and on web servers: list, read, upload."""

import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from uuid import uuid4

import pyarrow.fs as pafs
from lance.file import LanceFileSession

from store.places import RemotePlace, is_web, remote_place
from store.remote_errors import raster_error, reason
from store.storage_options import effective_options, seconds, storage_options
from utils.errors import AegirError, ConfigError, RasterReadError
from utils.redaction import revealed

_PROBED_FOR_S = 300.0
_probed: dict[str, float] = {}
T = TypeVar("T")


class RemoteFile(NamedTuple):
    """One object below a prefix."""

    uri: str
    """Its URI."""
    size: int
    """Bytes."""
    modified_ns: int
    """When it was last written, nanoseconds since 1970."""


def files_under(uri: str) -> list[RemoteFile]:
    """All objects below a prefix, sorted by URI.

    Raises:
        ConfigError: nothing is below it, or the bucket does not exist.
        RasterUnreachableError: the store does not answer.
        RasterDeniedError: it refuses the credentials.
    """
    place = remote_place(uri)
    if is_web(uri):
        size, modified_ns = _web_stamp(uri)
        return [RemoteFile(uri, size, modified_ns)]
    selector = pafs.FileSelector(f"{place.bucket}/{place.key}", recursive=True, allow_not_found=True)
    try:
        found = _typed(uri, lambda: filesystem(uri).get_file_info(selector))
    except RasterReadError as error:
        if type(error) is RasterReadError:
            raise ConfigError(str(error)) from error
        raise
    return sorted(
        RemoteFile(f"{place.scheme}://{info.path}", info.size, info.mtime_ns or 0) for info in found if info.is_file
    )


def read_bytes(uri: str) -> bytes:
    """The content of one object.

    Raises:
        RasterReadError: it is missing, or (its sub-classes) cannot be reached.
    """
    if is_web(uri):
        return _typed(uri, lambda: _web_get(uri, {})[0])
    return _typed(uri, lambda: bytes(_opened(uri).readall()))


def ends(uri: str, most: int) -> tuple[int, bytes, bytes]:
    """Size of an object, and its first and last ``most`` bytes.

    Raises:
        RasterReadError: it is missing, or (its sub-classes) cannot be reached.
    """

    def read() -> tuple[int, bytes, bytes]:
        with _opened(uri) as file:
            size = int(file.size())
            first = file.read_at(min(most, size), 0)
            start = max(0, size - most)
            return size, bytes(first), bytes(first if not start else file.read_at(size - start, start))

    return _typed(uri, read)


def upload(path: Path, uri: str) -> None:
    """Copy a file of this machine to an object store; the object appears when it is complete.

    Raises:
        ConfigError: the place cannot be written.
    """
    place = remote_place(uri)
    folder, _, name = place.key.rpartition("/")
    root = RemotePlace(scheme=place.scheme, bucket=place.bucket, key=folder).uri
    try:
        LanceFileSession(root, storage_options(root)).upload_file(path, name)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{uri} cannot be written: {reason(error)}; choose another place") from error


def probe_writable(uri: str) -> None:
    """Write and delete an empty object below ``uri``; a success is remembered for some minutes.

    Raises:
        OSError, ValueError: as the storage library says it.
    """
    if time.monotonic() - _probed.get(uri, float("-inf")) < _PROBED_FOR_S:
        return
    session = LanceFileSession(uri, storage_options(uri))
    name = f".writable-{uuid4().hex}"
    with TemporaryDirectory() as folder:
        empty = Path(folder) / name
        empty.touch()
        session.upload_file(empty, name)
    session.delete_file(name)
    _probed[uri] = time.monotonic()


def filesystem(uri: str) -> pafs.FileSystem:
    """Arrow's file system for an object store."""
    place, options = remote_place(uri), effective_options(uri)
    return _filesystem(place.scheme, place.bucket, tuple(sorted(options.items())))


@lru_cache(maxsize=32)
def _filesystem(scheme: str, bucket: str, items: tuple[tuple[str, str], ...]) -> pafs.FileSystem:
    options = dict(items)
    if scheme == "s3":
        return _s3(bucket, options)
    if scheme == "gs":
        anonymous = options.get("google_skip_signature", "").lower() == "true"
        return pafs.GcsFileSystem(anonymous=anonymous)
    return pafs.AzureFileSystem(
        options.get("azure_storage_account_name", ""),
        account_key=options.get("azure_storage_account_key"),
        sas_token=options.get("azure_storage_sas_key"),
    )


def _s3(bucket: str, options: dict[str, str]) -> pafs.S3FileSystem:
    given: dict[str, Any] = {
        name: options[ours]
        for name, ours in (
            ("access_key", "aws_access_key_id"),
            ("secret_key", "aws_secret_access_key"),
            ("session_token", "aws_session_token"),
            ("region", "aws_region"),
        )
        if options.get(ours)
    }
    if options.get("aws_endpoint"):
        endpoint = urlsplit(options["aws_endpoint"])
        given |= {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
        given["force_virtual_addressing"] = options.get("aws_virtual_hosted_style_request", "").lower() == "true"
    elif "region" not in given:
        given["region"] = pafs.resolve_s3_region(bucket)
    return pafs.S3FileSystem(
        **given,
        anonymous=options.get("aws_skip_signature", "").lower() == "true",
        connect_timeout=seconds(options["connect_timeout"]),
        request_timeout=seconds(options["request_timeout"]),
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=int(options["client_max_retries"]) + 1),
    )


def _opened(uri: str) -> Any:
    place = remote_place(uri)
    return filesystem(uri).open_input_file(f"{place.bucket}/{place.key}")


def _web_stamp(uri: str) -> tuple[int, int]:
    """Size and time of a file on a web server, from the answer to a request of one byte."""
    _, headers = _typed(uri, lambda: _web_get(uri, {"Range": "bytes=0-0"}))
    total = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "0")
    return int(total) if total.isdecimal() else 0, 0


def _web_get(uri: str, headers: dict[str, str]) -> tuple[bytes, Any]:
    parts = urlsplit(revealed(uri))
    user, _, host = parts.netloc.rpartition("@")
    if user:
        headers = headers | {"Authorization": f"Basic {b64encode(unquote(user).encode()).decode()}"}
    place = quote(urlunsplit(parts._replace(netloc=host)), safe="%/:=&?~#+!$,;'@()*[]")
    request = urllib.request.Request(place, headers=headers)  # noqa: S310 - the scheme is checked
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return answer.read(), answer.headers


def _typed(uri: str, ask: Callable[[], T]) -> T:
    """What ``ask`` returns; its errors as ours, without secrets."""
    try:
        return ask()
    except AegirError:
        raise
    except (OSError, ValueError, HTTPException) as error:
        failed = raster_error(uri, error)
    raise failed from None
