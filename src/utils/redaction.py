"""Secrets that travel with settings and never show: sealed text, and messages without what is secret in them."""

import re
from collections.abc import Iterable
from typing import Any, Self
from urllib.parse import quote, unquote

HIDDEN = "***"
"""What stands where a secret stood."""

_SHORTEST = 8
"""Shorter secrets are not searched for in messages: ``test`` is also a word."""

_PASSWORD = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://[^\s/?#:@]*:)(?P<secret>[^\s/?#]+)(?=@)", re.IGNORECASE)
_TOKEN_AS_USER = re.compile(r"(?P<before>https?://)(?P<secret>[^\s/?#:@]+)(?=@)", re.IGNORECASE)
_IN_QUERY = re.compile(
    r"(?P<before>[?&;][^\s=&#'\"]*(?:sig|token|key|secret|passw|credential|auth)[^\s=&#'\"]*=)(?P<secret>[^\s&#'\"<>,;)]+)",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r"(?P<before>(?:secret_access_key|access_key_id|session_token|account_key|access_key|sas_key|sas_token|client_secret|"
    r"service_account_key)['\"]?\s*[:=]\s*['\"]?)(?P<secret>(?!\$\{)[^\s'\",;}]+)",
    re.IGNORECASE,
)
_known: set[str] = set()


class Sealed(str):
    """Text with a secret in it: prints, compares, hashes and goes into JSON as :data:`HIDDEN` stands in it.

    :func:`revealed` gives the secret text back, also in another process that was handed the value by pickle.
    """

    __slots__ = ("_secret",)
    _secret: str

    def __new__(cls, shown: str, secret: str, hidden: Iterable[str] = ()) -> Self:
        """Seal ``secret``, which shows as ``shown``; messages lose ``hidden`` (the secret itself by default)."""
        made = super().__new__(cls, shown)
        made._secret = secret
        remember(hidden or [secret])
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the secret too."""
        return Sealed, (str(self), self._secret, tuple(_secrets_in(self._secret)))


def sealed(secret: str) -> Sealed:
    """A value that is secret as a whole."""
    return Sealed(HIDDEN, secret)


def sealed_url(text: str) -> str:
    """A URL with its passwords, tokens and signatures hidden; the text itself where it holds none."""
    secrets = _secrets_in(text)
    return Sealed(_hidden(text), revealed(text), secrets) if secrets else text


def revealed(text: str) -> str:
    """The text with its secrets."""
    return text._secret if isinstance(text, Sealed) else text  # noqa: SLF001 - its only reader


def remember(secrets: Iterable[str]) -> None:
    """Keep these values out of every message from now on."""
    for secret in secrets:
        if len(secret) >= _SHORTEST and HIDDEN not in secret:
            _known.update({secret, quote(secret, safe=""), quote(secret), unquote(secret)})


def redacted(text: str) -> str:
    """``text`` without secrets: those known here, passwords of URLs, signatures and tokens of signed URLs."""
    for secret in sorted(_known, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return _OPTION.sub(lambda found: found["before"] + HIDDEN, _hidden(text))


def _hidden(text: str) -> str:
    if "://" not in text and "?" not in text and "&" not in text:
        return str(text)
    for pattern in (_PASSWORD, _TOKEN_AS_USER, _IN_QUERY):
        text = pattern.sub(lambda found: found["before"] + HIDDEN, text)
    return text


def _secrets_in(text: str) -> list[str]:
    plain = revealed(text)
    found = [
        match["secret"]
        for pattern in (_PASSWORD, _TOKEN_AS_USER, _IN_QUERY)
        for match in pattern.finditer(plain)
        if match["secret"] != HIDDEN
    ]
    return found if found or not isinstance(text, Sealed) else [plain]
