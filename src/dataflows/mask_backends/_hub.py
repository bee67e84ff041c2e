"""Files of the Hugging Face hub: the local cache first, the network only where it is asked for and allowed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from dataflows.mask_backends._weights import refuse_offline
from utils.errors import ExtraMissingError, WeightsError, WeightsNotFoundError, WeightsUnreachableError


def hub_file(repository: str, file: str, *, backend: str, revision: str | None = None, download: bool = False) -> Path:
    """One file of ``repository``, from the local cache of the hub or downloaded into it.

    Args:
        repository: its id, ``owner/name``.
        file: its name there.
        backend: name of the mask backend, for messages.
        revision: branch, tag or commit; ``main`` where none is given.
        download: whether a file that is not in the cache is fetched.

    Raises:
        ExtraMissingError: ``huggingface_hub`` is not installed.
        WeightsNotFoundError: the cache has no such file, and ``download`` was not asked for.
        DownloadForbiddenError: it was asked for, but the process is offline.
        WeightsUnreachableError: the hub does not answer.
        WeightsError: the hub has no such file or does not give it.
    """
    cached = cached_file(repository, file, backend=backend, revision=revision)
    if cached is not None:
        return cached
    _may_download(repository, file, backend, revision, download)
    with _translated(repository):
        return Path(_hub(backend).hf_hub_download(repository, file, revision=revision))


def hub_folder(
    repository: str, patterns: Sequence[str], *, backend: str, revision: str | None = None, download: bool = False
) -> Path:
    """The folder of ``repository`` in the local cache of the hub, downloaded where ``config.json`` is not there.

    Args:
        repository: its id, ``owner/name``.
        patterns: of the names of files to download.
        backend: name of the mask backend, for messages.
        revision: branch, tag or commit; ``main`` where none is given.
        download: whether files are fetched. Those that are in the cache are never fetched again.

    Raises:
        ExtraMissingError, WeightsNotFoundError, DownloadForbiddenError, WeightsUnreachableError, WeightsError:
            as :func:`hub_file`.
    """
    cached = cached_file(repository, "config.json", backend=backend, revision=revision)
    if cached is not None:
        return cached.parent
    _may_download(repository, "config.json", backend, revision, download)
    with _translated(repository):
        return Path(_hub(backend).snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))


def cached_file(repository: str, file: str, *, backend: str, revision: str | None = None) -> Path | None:
    """One file of ``repository`` in the local cache of the hub; None where it is not there. No network.

    Raises:
        ExtraMissingError: ``huggingface_hub`` is not installed.
        WeightsError: ``repository`` is no id of the hub.
    """
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415 - with an extra

    try:
        found = _hub(backend).try_to_load_from_cache(repository, file, revision=revision)
    except HFValidationError as error:
        raise WeightsError(f"{repository!r} is neither a local folder nor an id of the hub: {error}") from error
    return Path(found) if isinstance(found, str) else None


def _may_download(repository: str, file: str, backend: str, revision: str | None, download: bool) -> None:
    where = f"{file} of {repository}{f' at {revision}' if revision else ''} is not in the local cache of the hub"
    if not download:
        raise WeightsNotFoundError(
            f"{where}, where the mask backend {backend!r} looks for it: give a local path, or set `download: true`"
        )
    refuse_offline(f"{where}, and `download: true` would fetch it from huggingface.co")


@contextmanager
def _translated(repository: str) -> Iterator[None]:
    """What the hub's client raises, as errors of this project."""
    from huggingface_hub import errors  # noqa: PLC0415 - with an extra

    place = f"{repository} on huggingface.co"
    # its bases are the errors of the client's own HTTP library, which differs from version to version
    unreachable = cast("tuple[type[Exception], ...]", (OSError, *errors.HfHubHTTPError.__bases__))
    try:
        yield
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"{place} is given only to those who accepted its licence: accept it there, log in with `hf auth login`"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise WeightsUnreachableError(f"{place} cannot be downloaded: {str(error)[:300]}") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise WeightsError(f"{place} does not exist or lacks a file: {str(error)[:300]}") from error
    except unreachable as error:
        raise WeightsUnreachableError(f"{place} cannot be downloaded: {str(error)[:300]}") from error


def _hub(backend: str) -> Any:
    try:
        import huggingface_hub  # noqa: PLC0415 - with an extra
    except ImportError as error:
        raise ExtraMissingError(
            f"the mask backend {backend!r} needs huggingface_hub for ids of the hub: "
            f'pip install "aegir-lightning-lance[{backend}]"'
        ) from error
    return huggingface_hub
