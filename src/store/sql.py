"""Names and text as SQL, for DuckDB and for Lance's filters."""

from collections.abc import Iterable
from datetime import UTC, datetime


def quoted(name: str) -> str:
    """``name`` as one SQL identifier, or ``schema.name`` as two."""
    return ".".join(quoted_column(part) for part in name.split("."))


def quoted_column(name: str) -> str:
    """``name`` as one SQL identifier, dots and all."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """``text`` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def literals(texts: Iterable[str]) -> str:
    """SQL strings with commas between them, as ``IN (…)`` takes them."""
    return ", ".join(map(literal, texts))


def instant(time: datetime) -> str:
    """``time``, which has a zone, as an SQL timestamp in UTC."""
    return f"timestamp '{time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00:00'"
