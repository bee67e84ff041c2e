"""How object stores are reached: credentials, endpoint, retries and time-outs, decided once for every library.

For a URI, what was told (:func:`use`; the setting ``storage_options`` of a flow) comes before the environment, and the
environment before the defaults here. Where neither names credentials, each library asks the provider's own chain
(profile, instance role). Names are those of Lance: ``aws_access_key_id``, ``aws_endpoint``, ``request_timeout``, …
"""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from store.places import OBJECT_STORES, is_remote, is_web, normalised, remote_place
from utils.errors import ConfigError
from utils.redaction import HIDDEN, Sealed, redacted, remember, revealed, sealed, sealed_url

_CLIENT: Final = {
    "client_max_retries": "6",
    "client_retry_timeout": "60",
    "connect_timeout": "5s",
    "request_timeout": "60s",
}
"""Retries of one request, seconds they may take in all, seconds to connect, seconds one attempt may take."""

_OPEN = (
    "aws_region", "aws_endpoint", "aws_virtual_hosted_style_request", "aws_skip_signature", "aws_request_payer",
    "google_application_credentials", "google_service_account", "google_skip_signature",
    "azure_storage_account_name", "azure_endpoint", "azure_storage_client_id", "azure_storage_tenant_id",
    "azure_skip_signature", "allow_http", *_CLIENT,
)  # fmt: skip
_SECRET = (
    "aws_access_key_id", "aws_secret_access_key", "aws_session_token", "google_service_account_key",
    "azure_storage_account_key", "azure_storage_sas_key", "azure_storage_client_secret",
)  # fmt: skip
_ALIASES: Final = {
    "access_key_id": "aws_access_key_id",
    "secret_access_key": "aws_secret_access_key",
    "session_token": "aws_session_token",
    "aws_token": "aws_session_token",
    "region": "aws_region",
    "aws_default_region": "aws_region",
    "endpoint": "aws_endpoint",
    "endpoint_url": "aws_endpoint",
    "aws_endpoint_url": "aws_endpoint",
    "aws_endpoint_url_s3": "aws_endpoint",
    "aws_allow_http": "allow_http",
    "virtual_hosted_style_request": "aws_virtual_hosted_style_request",
    "skip_signature": "aws_skip_signature",
    "aws_no_sign_request": "aws_skip_signature",
    "google_service_account_path": "google_service_account",
    "account_name": "azure_storage_account_name",
    "account_key": "azure_storage_account_key",
    "azure_storage_access_key": "azure_storage_account_key",
    "azure_storage_account": "azure_storage_account_name",
    "azure_storage_sas_token": "azure_storage_sas_key",
    "sas_token": "azure_storage_sas_key",
}
_ENVIRONMENT: Final = {
    "s3": (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION",
        "AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ALLOW_HTTP", "AWS_SKIP_SIGNATURE",
        "AWS_NO_SIGN_REQUEST", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "AWS_REQUEST_PAYER",
    ),
    "gs": (
        "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY",
        "GOOGLE_SKIP_SIGNATURE",
    ),
    "az": (
        "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_CLIENT_ID", "AZURE_STORAGE_CLIENT_SECRET",
        "AZURE_STORAGE_TENANT_ID", "AZURE_ENDPOINT", "AZURE_SKIP_SIGNATURE",
    ),
}  # fmt: skip
"""Environment variables that are read, a later one over an earlier one of the same meaning."""

_PREFIXES: Final = {"s3": "aws_", "gs": "google_", "az": "azure_"}
_CREDENTIALS: Final = (*_SECRET, "google_application_credentials", "google_service_account")
_REFERENCE = re.compile(r"^\$\{([A-Za-z_][A-Za-z0-9_]*)\}$")
_DURATION = re.compile(r"^\s*([0-9.]+)\s*(ms|s|m|sec|secs|second|seconds|min|minutes?)?\s*$")
_UNITS: Final = {"ms": 0.001, "m": 60.0, "min": 60.0, "minute": 60.0, "minutes": 60.0}
_told: dict[str, dict[str, str]] = {}


def checked(options: object) -> dict[str, Any]:
    """Storage options as settings hold them: known names, values as text, secrets sealed.

    Args:
        options: name → value for all object stores of the settings, or URI prefix → such a mapping. A value
            ``${NAME}`` stays as it is and is taken from the environment when it is used.

    Raises:
        ConfigError: a name is unknown, or a value is no text, number or truth value.
    """
    if not isinstance(options, Mapping):
        raise ConfigError("storage_options is a mapping of option names to values (docs/object_stores.md)")
    if any(is_remote(name) for name in options):
        return {normalised(name): _checked_flat(value, name) for name, value in options.items()}
    return _checked_flat(options, "storage_options")


def use(options: Mapping[str, Any], places: Iterable[str]) -> None:
    """Reach these places with these options from now on, in this process; without options nothing changes.

    Args:
        options: as :func:`checked` made them.
        places: where options without a prefix apply: to the buckets these are in. Paths are passed over.
    """
    if not options:
        return
    stores = [remote_place(place) for place in places if is_remote(place) and not is_web(place)]
    by_prefix = any(is_remote(name) for name in options)
    for prefix in options if by_prefix else {f"{place.scheme}://{place.bucket}" for place in stores}:
        _told[prefix] = dict(options[prefix] if by_prefix else options)


def table_store(uri: str) -> str:
    """The place of a store of tables as settings hold it.

    Raises:
        ConfigError: it is a URI that cannot be one.
    """
    place = normalised(uri)
    if not is_remote(place):
        return place
    if is_web(place):
        raise ConfigError(f"{place}: tables cannot be on a web server; give a folder or s3://bucket/prefix")
    odd = sorted(set("%?#") & set(place))
    if odd:
        # Lance takes the first for an escape and cuts the URI at the others: the tables would be elsewhere
        raise ConfigError(f"{place}: the characters {' '.join(odd)} cannot be in the place of a store; choose another")
    return place


def storage_options(uri: str) -> dict[str, str] | None:
    """Options of Lance and LanceDB for a URI, secrets included; None for a path of this machine.

    Raises:
        ConfigError: a ``${NAME}`` is not in the environment, the URI is none of an object store, or a session token of
            the environment would be mixed with keys that were told.
    """
    place = table_store(uri)
    if not is_remote(place):
        return None
    options = effective_options(place)
    if "aws_access_key_id" in options and "aws_session_token" not in options and os.environ.get("AWS_SESSION_TOKEN"):
        # Lance completes options from the environment
        raise ConfigError(
            f"{place}: its storage_options hold keys without a session token, and the AWS_SESSION_TOKEN of the "
            "environment belongs to other keys but would be sent; unset it, or give aws_session_token"
        )
    return options | {
        name: f"{round(seconds(options[name]) * 1000)}ms" for name in ("connect_timeout", "request_timeout")
    }


def gdal_options(uri: str) -> dict[str, str]:
    """Configuration options of GDAL for a URI, secrets included."""
    options = effective_options(uri) if not is_web(uri) else dict(_CLIENT)
    found = {
        "GDAL_HTTP_MAX_RETRY": options["client_max_retries"],
        "GDAL_HTTP_RETRY_DELAY": "0.2",
        "GDAL_HTTP_CONNECTTIMEOUT": _whole_seconds(options["connect_timeout"]),
        "GDAL_HTTP_TIMEOUT": _whole_seconds(options["request_timeout"]),
        # GDAL remembers failures and truncated answers for ever; so it forgets a file when the file is closed
        "CPL_VSIL_CURL_NON_CACHED": "/vsis3/:/vsigs/:/vsiaz/:/vsicurl/",
    }
    given = {name: options[ours] for name, ours in _GDAL_NAMES.items() if options.get(ours)}
    if "AWS_ACCESS_KEY_ID" in given:
        # a token of the environment belongs to other keys
        given.setdefault("AWS_SESSION_TOKEN", "")
    if options.get("aws_endpoint"):
        endpoint = urlsplit(options["aws_endpoint"])
        given |= {
            "AWS_S3_ENDPOINT": f"{endpoint.netloc}{endpoint.path.rstrip('/')}",
            "AWS_HTTPS": "NO" if endpoint.scheme == "http" else "YES",
            "AWS_VIRTUAL_HOSTING": "TRUE" if _is_true(options.get("aws_virtual_hosted_style_request")) else "FALSE",
        }
    for name, ours in (
        ("AWS_NO_SIGN_REQUEST", "aws_skip_signature"),
        ("GS_NO_SIGN_REQUEST", "google_skip_signature"),
        ("AZURE_NO_SIGN_REQUEST", "azure_skip_signature"),
    ):
        if _is_true(options.get(ours)):
            given[name] = "YES"
    return found | given


_GDAL_NAMES: Final = {
    "AWS_ACCESS_KEY_ID": "aws_access_key_id",
    "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key",
    "AWS_SESSION_TOKEN": "aws_session_token",
    "AWS_REGION": "aws_region",
    "AWS_REQUEST_PAYER": "aws_request_payer",
    "GOOGLE_APPLICATION_CREDENTIALS": "google_application_credentials",
    "AZURE_STORAGE_ACCOUNT": "azure_storage_account_name",
    "AZURE_STORAGE_ACCESS_KEY": "azure_storage_account_key",
    "AZURE_STORAGE_SAS_TOKEN": "azure_storage_sas_key",
}


def seconds(duration: str) -> float:
    """Seconds of a duration such as ``30s``, ``500ms`` or ``2 minutes``; a bare number is seconds.

    Raises:
        ConfigError: it is no duration.
    """
    found = _DURATION.match(duration)
    if found is None:
        raise ConfigError(f"storage_options: {duration!r} is no duration; give one such as 30s or 500ms")
    return float(found[1]) * _UNITS.get(found[2] or "s", 1.0)


def effective_options(uri: str) -> dict[str, str]:
    """Everything that is decided for a URI, by Lance's names."""
    place = remote_place(uri)
    if place.scheme not in OBJECT_STORES:
        raise ConfigError(f"{sealed_url(uri)} is no object store; give {', '.join(f'{s}://' for s in OBJECT_STORES)}")
    told = _resolved(_told_for(uri))
    environment = _from_environment(place.scheme)
    if any(name in told for name in _CREDENTIALS) or _is_true(told.get(f"{_PREFIXES[place.scheme]}skip_signature")):
        environment = {name: value for name, value in environment.items() if name not in _CREDENTIALS}
    options = _CLIENT | environment | told
    if options.get("aws_endpoint"):
        options.setdefault("aws_region", "us-east-1")
        if options["aws_endpoint"].lower().startswith("http://"):
            options["allow_http"] = "true"
    remember(options[name] for name in _SECRET if name in options)
    return {
        name: value
        for name, value in options.items()
        if name in _CLIENT or name == "allow_http" or name.startswith(_PREFIXES[place.scheme])
    }


def _told_for(uri: str) -> Mapping[str, str]:
    text = revealed(normalised(uri))
    met = [prefix for prefix in _told if text == prefix or text.startswith(f"{prefix.rstrip('/')}/")]
    return _told[max(met, key=len)] if met else {}


def _resolved(options: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, value in options.items():
        text = revealed(value)
        reference = _REFERENCE.match(text)
        if reference and reference[1] not in os.environ:
            raise ConfigError(f"storage_options: {name} is {text}, and the environment has no {reference[1]}; set it")
        found[name] = os.environ[reference[1]] if reference else text
    return found


def _from_environment(scheme: str) -> dict[str, str]:
    found = {_known(name.lower()): os.environ[name] for name in _ENVIRONMENT[scheme] if os.environ.get(name)}
    limits = {
        name: os.environ[f"OBJECT_STORE_{name.upper()}"]
        for name in _CLIENT
        if os.environ.get(f"OBJECT_STORE_{name.upper()}")
    }
    return limits | found


def _checked_flat(options: object, place: str) -> dict[str, str]:
    if not isinstance(options, Mapping):
        raise ConfigError(f"{sealed_url(place)}: storage options are a mapping of names to values")
    return {name: _checked_value(name, value) for name, value in ((_known(str(key)), options[key]) for key in options)}


def _known(name: str) -> str:
    lower = name.lower()
    found = _ALIASES.get(lower, lower)
    if found not in _OPEN and found not in _SECRET:
        raise ConfigError(
            f"storage_options: unknown {redacted(name)!r}; known: {', '.join(sorted((*_OPEN, *_SECRET)))}"
        )
    return found


def _checked_value(name: str, value: object) -> str:
    if isinstance(value, Sealed):
        return value
    if value is None or not isinstance(value, str | int | float):
        raise ConfigError(f"storage_options: {name} must be text, a number, or true or false")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if text == HIDDEN:
        raise ConfigError(
            f"storage_options: {name} was taken from a record, which holds no secrets; give it, or ${{NAME}} of an "
            "environment variable"
        )
    if name in ("connect_timeout", "request_timeout"):
        seconds(text)
    if name in ("client_max_retries", "client_retry_timeout") and not text.isdecimal():
        raise ConfigError(f"storage_options: {name} must be a whole number, got {text!r}")
    return sealed(text) if name in _SECRET and not _REFERENCE.match(text) else sealed_url(text)


def _whole_seconds(duration: str) -> str:
    return str(max(1, round(seconds(duration))))


def _is_true(value: str | None) -> bool:
    return (value or "").lower() in ("true", "1", "yes", "on")
