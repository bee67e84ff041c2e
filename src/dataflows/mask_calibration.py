"""Which calibration holds for the masks of a backend under its settings."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dataflows import mask_backends
from utils.calibration import Calibration, settings_recipe
from utils.refinement import RefinementSteps
from utils.types import MaskBackend

UNCALIBRATED = "uncalibrated"
"""Flag of masks whose quality is no more than their score."""


@dataclass(frozen=True, kw_only=True)
class MaskCalibration:
    """A calibration as one build uses it."""

    calibration: Calibration | None
    """None where the settings name none: every mask is uncalibrated."""
    backend: str
    """Mask backend (registry name)."""
    settings_recipe: str
    """Hash of what shapes its masks."""

    def quality(
        self, kind: str, scores: Mapping[str, float], flags: Collection[str]
    ) -> tuple[float | None, str | None]:
        """``(quality, version)`` of a mask of this build; both None where the calibration does not tell."""
        if self.calibration is None:
            return None, None
        found = self.calibration.quality(self.backend, kind, self.settings_recipe, scores, flags)
        return found, None if found is None else self.calibration.version


def mask_settings(segmenter: MaskBackend, options: Mapping[str, Any], refinement: RefinementSteps) -> dict[str, Any]:
    """What shapes the masks of a backend: its settings with their defaults, hashes of its weights, refinement.

    Options without effect on masks (device, batch sizes) are left out, and files are known by their content, so that
    the same model elsewhere has the same settings.

    Raises:
        ConfigError: a file of weights cannot be read.
    """
    known = segmenter.name in mask_backends.names()
    weights = mask_backends.weights(segmenter.name, **options) if known else None
    return _settings(segmenter.name, mask_backends.completed(segmenter, options), weights, refinement)


def recorded_settings(
    backend: str, options: Mapping[str, Any], weights: Mapping[str, str] | None, refinement: RefinementSteps
) -> dict[str, Any]:
    """:func:`mask_settings` as a run recorded them: weights by the hashes they had then, and no file is looked at.

    Raises:
        UnknownNameError: this version has no such backend, or the backend no such option.
        ConfigError: an option is refused.
    """
    return _settings(backend, mask_backends.recorded(backend, options), weights, refinement)


def _settings(
    backend: str, values: Mapping[str, Any], weights: Mapping[str, str] | None, refinement: RefinementSteps
) -> dict[str, Any]:
    return {
        "mask_backend": backend,
        "mask_options": {name: _plain(value) for name, value in mask_backends.shaping(values).items()},
        "weights": weights,
        "refinement": {name: _plain(value) for name, value in asdict(refinement).items()},
    }


def _plain(value: object) -> object:
    """1 and 1.0 are one setting."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def for_backend(
    calibration: Calibration | None, segmenter: MaskBackend, options: Mapping[str, Any], refinement: RefinementSteps
) -> MaskCalibration:
    """``calibration`` for the masks of this backend under these settings.

    Raises:
        ConfigError: a file of weights cannot be read.
    """
    recipe = settings_recipe(mask_settings(segmenter, options, refinement)) if calibration is not None else ""
    return MaskCalibration(calibration=calibration, backend=segmenter.name, settings_recipe=recipe)
