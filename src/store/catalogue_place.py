"""Where a DuckLake catalogue is: a DuckDB file, a SQLite file or a PostgreSQL database; and its name without secrets.

A password never leaves :func:`sealed`: settings, tables, logs and messages carry the redacted text, and the password is
looked up here, in this process, when the catalogue is attached.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from utils.errors import CatalogUnreachableError, ConfigError

CatalogueKind = Literal["duckdb", "sqlite", "postgres"]

HIDDEN = "***"
"""What stands where a password stood."""

_SQLITE_MAGIC = b"SQLite format 3\x00"
_HIDDEN_KEYS = "password|sslpassword"
_URL = re.compile(r"^postgres(?:ql)?://", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://[^:/?#@]*:)(?P<secret>.*)(?=@)", re.IGNORECASE)
_QUERY_SECRET = re.compile(rf"(?P<before>[?&](?:{_HIDDEN_KEYS})=)(?P<secret>[^&#]*)", re.IGNORECASE)
_CONNINFO_SECRET = re.compile(
    rf"(?P<before>\b(?:{_HIDDEN_KEYS})\s*=\s*)(?P<secret>'(?:[^'\\]|\\.)*'|(?:[^\s\\]|\\.)+)", re.IGNORECASE
)
_vault: dict[str, dict[str, str]] = {}


@dataclass(frozen=True, kw_only=True)
class CataloguePlace:
    """A catalogue's kind and place, without secrets."""

    kind: CatalogueKind
    """Database that holds the catalogue."""
    target: str
    """Path of the file, or libpq connection text, password hidden."""

    @property
    def name(self) -> str:
        """The place as settings and tables show it."""
        return self.target if self.kind == "duckdb" else f"{self.kind}:{self.target}"

    @property
    def path(self) -> Path | None:
        """The catalogue's file; None for a server."""
        return None if self.kind == "postgres" else Path(self.target)


def redacted(catalog: str | Path) -> str:
    """``catalog`` without passwords: the only form that goes into settings, tables, logs and messages."""
    text = _bare(str(catalog)) if is_server(catalog) else str(catalog)
    for pattern in _patterns(text):
        text = pattern.sub(lambda found: found["before"] + HIDDEN, text)
    return text


def sealed(catalog: str | Path) -> str:
    """:func:`redacted`, and the passwords are remembered for :func:`secret_target` in this process."""
    text, hidden = _bare(str(catalog)) if is_server(catalog) else str(catalog), redacted(catalog)
    secrets = {
        found["before"]: found["secret"]
        for pattern in (_patterns(text) if is_server(text) else ())
        for found in pattern.finditer(text)
        if found["secret"] != HIDDEN
    }
    if secrets:
        _vault[hidden] = secrets
    return hidden


def same_place(recorded: str, now: str) -> bool:
    """Whether a recorded place of labels is the one they are read from now.

    A recorded file that is gone is the present one where its folder has the same name too (everything moved), or where
    it was recorded relative to another working directory and the present path ends with it.
    """
    if recorded == now or is_server(recorded) or is_server(now):
        return recorded == now
    then, here = (place_of(text).path or Path(text) for text in (recorded, now))
    if then.exists():
        return then.resolve() == here.resolve()
    told = then.parts[-2:] if then.is_absolute() else tuple(part for part in then.parts if part != "..")
    return here.resolve().parts[-len(told) :] == told


def is_server(catalog: str | Path) -> bool:
    """Whether the catalogue is in a PostgreSQL database."""
    text = _bare(str(catalog))
    return text.lower().startswith("postgres:") or bool(_URL.match(text))


def place_of(catalog: str | Path) -> CataloguePlace:
    """Kind and place of a catalogue.

    Args:
        catalog: path of a DuckDB or SQLite file (told apart by its first bytes), ``duckdb:path``, ``sqlite:path``,
            ``postgres:host=… dbname=…`` or a ``postgresql://`` URL; each may have ``ducklake:`` before it.

    Raises:
        ConfigError: nothing follows the kind.
    """
    text = _bare(redacted(catalog))
    if _URL.match(text):
        return CataloguePlace(kind="postgres", target=text)
    kind, colon, rest = text.partition(":")
    if colon and kind.lower() in ("postgres", "sqlite", "duckdb"):
        if not rest.strip():
            raise ConfigError(f"catalog {text!r} names no place; see docs/labels.md for the forms")
        return CataloguePlace(kind=kind.lower(), target=rest)  # type: ignore[arg-type]
    return CataloguePlace(kind="sqlite" if _is_sqlite(Path(text)) else "duckdb", target=text)


def secret_target(catalog: str | Path) -> tuple[str, list[str]]:
    """Connection text of a server with its passwords, and the passwords, to be kept out of every message.

    Raises:
        CatalogUnreachableError: the text comes from a record, and its password is not known here.
    """
    hidden = sealed(catalog)
    text, secrets = hidden, _vault.get(hidden, {})
    for before, secret in secrets.items():
        text = text.replace(before + HIDDEN, before + secret)
    if HIDDEN in text:
        raise CatalogUnreachableError(
            f"the password of {hidden} is not known here; put it into ~/.pgpass or $PGPASSWORD and leave it out of "
            "`catalog`"
        )
    bare = _bare(text)
    return bare if _URL.match(bare) else bare.partition(":")[2], _spellings(secrets.values())


def _spellings(secrets: object) -> list[str]:
    """Secrets as written and as a server may repeat them, longest first."""
    found = {form for text in secrets for form in (text, unquote(text), text.strip("'"))}  # type: ignore[attr-defined]
    return sorted((form for form in found if form), key=len, reverse=True)


def _patterns(text: str) -> tuple[re.Pattern[str], ...]:
    """What may be secret in a catalogue's text; in one of no known form, everything that looks like it."""
    url = (_URL_PASSWORD, _QUERY_SECRET)
    if not is_server(text):
        return (*url, _CONNINFO_SECRET)
    return url if _URL.match(_bare(text)) else (_CONNINFO_SECRET,)


def _bare(text: str) -> str:
    """The place without ``ducklake:``, and a URL without ``postgres:`` before it."""
    text = text.strip()
    text = text[len("ducklake:") :].lstrip() if text.lower().startswith("ducklake:") else text
    inner = text.partition(":")[2]
    return inner if text.lower().startswith("postgres:") and _URL.match(inner) else text


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    except OSError:
        return False
