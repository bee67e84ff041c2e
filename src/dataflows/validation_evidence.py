"""Findings of all rules on a batch of detections."""

from hamilton.function_modifiers import group, inject, source, tag

from utils.evidence import Finding

SPECTRAL_RULES = (
    "cloud_cover", "water_surface", "vegetation_cover", "bright_cover", "pv_spectrum", "ring_contrast",
    "spectral_persistence",
)  # fmt: skip
"""Rules on multispectral imagery."""
VISUAL_RULES = (
    "module_grid", "panel_colour", "sharp_outline", "smooth_surface", "cast_shadow", "parked_vehicle",
    "visual_persistence",
)  # fmt: skip
"""Rules on VHR imagery."""
OUTLINE_RULES = ("model_score", "plausible_size", "plausible_shape", "known_pv")
"""Rules on what the search itself and the labels say."""
RULES = (*SPECTRAL_RULES, *VISUAL_RULES, *OUTLINE_RULES)
"""All rules that are asked of every detection."""


@tag(stage="validation")
@inject(by_rule=group(*(source(rule) for rule in RULES)))
def detection_findings(by_rule: list[dict[str, Finding]], readable: list[str]) -> dict[str, list[Finding]]:
    """Detection id → the finding of every rule, in the order of :data:`RULES`."""
    return {one: [found[one] for found in by_rule] for one in readable}
