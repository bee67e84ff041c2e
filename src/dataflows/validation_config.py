"""Settings of validation: the section ``validation`` of the discovery settings."""

from dataclasses import dataclass
from typing import Any

from dataflows._settings import section
from dataflows.discovery_config import DiscoveryConfig
from utils.errors import ConfigError

MASK_AGREEMENT = ("none", "review", "all")


@dataclass(frozen=True, kw_only=True)
class ValidationRules:
    """Where verdicts part, what is looked at, and what the calibrated model is fitted on."""

    accept: float = 0.6
    """Least confidence of an accepted detection."""
    review: float = 0.25
    """Least confidence of one a person is to look at; below it the detection is rejected."""
    min_effective_px: float = 4.0
    """Area in clear multispectral pixels below which spectral rules abstain."""
    max_days: int = 400
    """Most days between the VHR image and a multispectral date that speaks for or against; others only show change."""
    dates: int = 2
    """Most VHR days, and most multispectral dates, that are looked at; the nearest come first."""
    ring_m: float = 60.0
    """Width of the ring of surroundings in multispectral imagery, metres."""
    near_pv_m: float = 100.0
    """Distance within which known photovoltaics speak for a detection, metres."""
    mask_agreement: str = "review"
    """Which detections the mask factory is asked about: ``none``, ``review`` (those left undecided) or ``all``."""
    mask_side_px: int = 64
    """Longest side of an object in the image the mask factory is shown; larger ones are shown coarser, pixels."""
    model: str = "auto"
    """``auto`` fits a model where labels suffice, ``none`` uses rules alone, anything else is a file of a model."""
    least_labels: int = 40
    """Fewest confirmed and fewest background detections a model is fitted on."""
    negative_m: float = 15.0
    """A detection without a label this near is background for the model, metres."""
    labelled_m: float = 500.0
    """Only where a label is this near is a place without labels taken for one without photovoltaics, metres."""
    truth: str = ""
    """GeoJSON of true polygons that replaces labels in fitting the model; empty is labels."""
    cell_level: int = 15
    """S2 level of the cells that are judged together and whose detections stay together in cross-fitting."""

    def __post_init__(self) -> None:
        """Refuse settings nothing could be judged with."""
        problems = [
            f"{name} must be above 0"
            for name in ("min_effective_px", "max_days", "dates", "ring_m", "mask_side_px", "least_labels")
            if getattr(self, name) <= 0
        ]
        if not 0 <= self.review <= self.accept <= 1:
            problems.append(f"0 ≤ review ({self.review}) ≤ accept ({self.accept}) ≤ 1 does not hold")
        if self.mask_agreement not in MASK_AGREEMENT:
            problems.append(f"mask_agreement is {self.mask_agreement!r}; give one of {', '.join(MASK_AGREEMENT)}")
        if not 0 <= self.cell_level <= 30:
            problems.append("cell_level is an S2 level, 0 to 30")
        if min(self.negative_m, self.labelled_m, self.near_pv_m) < 0:
            problems.append("negative_m, labelled_m and near_pv_m are distances, 0 or more")
        if not self.model:
            problems.append("model is auto, none or a file")
        if problems:
            raise ConfigError("validation: " + "; ".join(problems))


def validation_rules(config: DiscoveryConfig) -> ValidationRules:
    """The checked settings.

    Raises:
        ConfigError: a setting is unknown or refused.
    """
    return section(ValidationRules, config.validation, "validation")


MEASURING = ("min_effective_px", "max_days", "dates", "ring_m", "near_pv_m", "cell_level")
"""Settings that evidence depends on; the others only decide what follows from it."""


def measuring_settings(rules: ValidationRules) -> dict[str, Any]:
    """Those settings by name."""
    return {name: getattr(rules, name) for name in MEASURING}
