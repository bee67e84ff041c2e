"""What the errors of storage libraries mean, as errors of ours and without secrets."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

from store.places import is_remote
from utils.errors import (
    BucketNotFoundError,
    RasterDeniedError,
    RasterReadError,
    RasterUnreachableError,
    StoreDeniedError,
    StoreError,
    StoreUnreachableError,
)
from utils.redaction import redacted

F = TypeVar("F", bound=Callable[..., Any])

Trouble = Literal["unreachable", "denied", "no bucket", "missing", ""]
"""What an error of a storage library means; empty for anything else."""

_WAITS_S: Final = (0.2, 0.8, 3.0)
_CUT_OFF = re.compile(r"response body|decoding response|before message completed", re.IGNORECASE)
_STATUS = r"(?:status|code|HTTP error)(?: code)?[ :]*"
_SIGNS: Final[tuple[tuple[Trouble, re.Pattern[str]], ...]] = (
    (
        "no bucket",
        re.compile(r"NoSuchBucket|NO_SUCH_BUCKET|ContainerNotFound|bucket does not exist", re.IGNORECASE),
    ),
    (
        "denied",
        re.compile(
            rf"{_STATUS}40[13]|necessary privileges|AccessDenied|ACCESS_DENIED|Forbidden|Unauthenticated|Unauthorized|"
            r"InvalidAccessKeyId|INVALID_ACCESS_KEY_ID|SignatureDoesNotMatch|SIGNATURE_DOES_NOT_MATCH|ExpiredToken|"
            r"InvalidToken|INVALID_SIGNATURE|INVALID_CLIENT_TOKEN_ID|NotLoaded|get AWS credentials|No credentials|"
            r"InvalidCredentials",
            re.IGNORECASE,
        ),
    ),
    (
        "unreachable",
        re.compile(
            rf"error sending request|{_STATUS}(?:408|429|5\d\d)|NETWORK_CONNECTION|SLOW_DOWN|SlowDown|"
            r"SERVICE_UNAVAILABLE|INTERNAL_FAILURE|curlCode|CURL error|timed? ?out|"
            r"connection (?:reset|refused|closed|aborted)|"
            r"after \d+ retries|error decoding response body|request or response body error|Could not resolve|"
            r"Couldn't resolve|dns error|Incomplete ?Read|Remote end closed|URLError|urlopen error",
            re.IGNORECASE,
        ),
    ),
    ("missing", re.compile(rf"{_STATUS}404|No such file|not exist|not found|NO_SUCH_KEY|NoSuchKey", re.IGNORECASE)),
)


def trouble_of(error: BaseException) -> Trouble:
    """What the text of a storage library's error means."""
    if isinstance(error, TimeoutError | ConnectionError):
        return "unreachable"
    if isinstance(error, FileNotFoundError):
        return "missing"
    # the name of a bucket or file is no sign
    text = re.sub(r"\S*://\S+", "", str(error))
    return next((trouble for trouble, sign in _SIGNS if sign.search(text)), "")


def reason(error: BaseException) -> str:
    """The error's text without secrets, places of source code and the request ids of a server, on one line."""
    text = re.sub(r",? ?/\S+\.rs:\d+:\d+", "", str(error))
    text = re.sub(r"<\?xml.*?<Code>(\w+)</Code>.*", r"\1", text, flags=re.DOTALL)
    return redacted(" ".join(text.split()))


@contextmanager
def remote_errors(uri: str | Path) -> Iterator[None]:
    """Inside the block, errors of an object store that have nothing to do with a table become typed ones.

    Raises:
        StoreUnreachableError: it does not answer.
        StoreDeniedError: it refuses the credentials.
        BucketNotFoundError: the bucket does not exist.
    """
    if not is_remote(uri):
        yield
        return
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        failed = store_error(uri, error)
        if failed is None:
            raise
    else:
        return
    # without the library's error as its cause, which may hold what the message leaves out
    raise failed from None


def typed_errors(function: F) -> F:
    """A function whose first argument is a store's URI, with :func:`remote_errors` around it.

    It must be one that may run twice: where an answer was cut off in the middle, which Lance does not ask for again
    (other than a request without an answer), it runs again.
    """

    @wraps(function)
    def guarded(uri: str | Path, *args: Any, **kwargs: Any) -> Any:
        waits = iter(_WAITS_S)
        while True:
            try:
                with remote_errors(uri):
                    return function(uri, *args, **kwargs)
            except StoreUnreachableError as error:
                wait = next(waits, None)
                if wait is None or not _CUT_OFF.search(str(error)):
                    raise
            time.sleep(wait)

    return cast("F", guarded)


def store_error(uri: str | Path, error: BaseException) -> StoreError | None:
    """What an error of a storage library says of a store, as one of ours; None where it is about the table."""
    trouble, said = trouble_of(error), reason(error)
    if trouble == "unreachable":
        return StoreUnreachableError(
            f"the object store of {uri} does not answer ({said}); check the endpoint and the network, then start "
            "again: a run goes on where it stopped"
        )
    if trouble == "denied":
        return StoreDeniedError(
            f"the object store of {uri} refuses the credentials ({said}); check them, what they may do, and the "
            "endpoint (docs/object_stores.md)"
        )
    if trouble == "no bucket":
        return BucketNotFoundError(
            f"the bucket of {uri} does not exist ({said}); make it, or correct its name or the endpoint"
        )
    return None


def raster_error(uri: str, error: BaseException) -> RasterReadError:
    """What an error of a storage library says of a file, as one of ours."""
    trouble, said = trouble_of(error), reason(error)
    if trouble == "unreachable":
        return RasterUnreachableError(f"{uri}: its server does not answer ({said}); try again when it does")
    if trouble == "denied":
        return RasterDeniedError(
            f"{uri}: its server refuses the credentials ({said}); check them, what they may read, and the endpoint "
            "(docs/object_stores.md)"
        )
    if trouble == "no bucket":
        return RasterReadError(f"{uri}: the bucket does not exist ({said}); correct its name, or the endpoint")
    return RasterReadError(f"{uri}: cannot be read ({said}); replace or remove the file")
