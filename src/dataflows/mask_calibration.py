"""Which calibration holds for the masks of a backend under its settings."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
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
    told = getattr(segmenter, "settings", None) or getattr(segmenter, "options", None)
    values = asdict(told) if is_dataclass(told) and not isinstance(told, type) else dict(options)
    shaping = {
        name: value
        for name, value in mask_backends.shaping(values).items()
        if not (isinstance(value, str) and Path(value).exists())
    }
    known = segmenter.name in mask_backends.names()
    return {
        "mask_backend": segmenter.name,
        "mask_options": {name: _plain(value) for name, value in shaping.items()},
        "weights": mask_backends.weights(segmenter.name, **options) if known else None,
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
