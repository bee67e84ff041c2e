"""The option ``--set`` of commands that take settings."""

from collections.abc import Sequence
from typing import Any

import yaml

from utils.errors import ConfigError


def set_changes(texts: Sequence[str]) -> dict[str, Any]:
    """Settings and their values from ``NAME=VALUE``, the value in YAML.

    Raises:
        ConfigError: an option is no NAME=VALUE, or its value no YAML.
    """
    changes: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--set takes NAME=VALUE, got {text!r}")
        try:
            changes[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {name}: the value is no YAML: {error}") from error
    return changes
