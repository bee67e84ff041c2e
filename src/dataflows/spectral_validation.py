"""Multispectral rules of validation: each node is one rule, its docstring its formula and source.

A rule sees the object on the nearest multispectral date on which at least four effective pixels of it are clear
(``clear_observations``). Without one it abstains: most roofs are smaller than that, and say nothing at 10 m.
Reflectance is that of the object itself, with its surroundings taken out of mixed pixels
(``utils.spectral_evidence.unmixed``). Log-odds are set by hand, not fitted; the calibrated model does not use them.
"""

import numpy as np
import pyarrow as pa
from hamilton.function_modifiers import tag

from dataflows._findings import NEUTRAL, Together, finding, scaled
from dataflows.validation_config import ValidationRules
from dataflows.validation_imagery import MSI_GSD_M
from utils.evidence import Finding, abstains
from utils.reference_spectra import resemblance
from utils.spectral_evidence import Observation

Findings = dict[str, Finding]


@tag(stage="validation")
def clear_observations(
    msi_observations: dict[str, list[Observation]], detections: pa.Table, rules: ValidationRules
) -> dict[str, Observation | None]:
    """Detection id → nearest date within ``max_days`` with enough clear effective pixels; None without one."""
    days = dict(zip(detections["detection_id"].to_pylist(), detections["acquired_at"].to_pylist(), strict=True))
    return {
        one: next(
            (
                seen
                for seen in observations
                if seen.clear_px >= rules.min_effective_px
                and abs((seen.acquired_at - days[one]).days) <= rules.max_days
            ),
            None,
        )
        for one, observations in msi_observations.items()
    }


@tag(stage="validation")
def cloud_cover(
    msi_observations: dict[str, list[Observation]],
    clear_observations: dict[str, Observation | None],
    detections: pa.Table,
    rules: ValidationRules,
) -> Findings:
    """Clear effective pixels: ``Σ f`` over pixels of kept scene classes, f the area fraction of the object.

    Says whether spectral rules can speak at all; never for or against. Scene classes: Sentinel-2 L2A product
    definition, kept ones as in ``utils.scl``. A large object that is clear on no date cannot be verified.
    """
    areas = dict(zip(detections["detection_id"].to_pylist(), detections["area_m2"].to_pylist(), strict=True))
    found = {}
    for one, seen in clear_observations.items():
        dates = msi_observations[one]
        pixels = areas[one] / MSI_GSD_M**2
        if seen is not None:
            found[one] = finding(
                "cloud_cover", seen.clear_px, "px", 0.0, _clear_words(seen), seen=seen,
                details={"cloud_share": seen.cloud_share, "effective_px": seen.effective_px},
            )  # fmt: skip
        elif pixels < rules.min_effective_px:
            words = f"{pixels:.1f} multispectral pixels are too few to say anything"
            found[one] = abstains("cloud_cover", words, value=pixels, unit="px")
        elif dates:
            clear_px, cloud = max(d.clear_px for d in dates), max(d.cloud_share for d in dates)
            words = (
                f"no clear multispectral date within {rules.max_days} days of the image: at most {clear_px:.1f} clear "
                f"pixels, up to {cloud:.0%} under cloud"
            )
            found[one] = abstains("cloud_cover", words, value=clear_px, unit="px")
        else:
            found[one] = abstains("cloud_cover", "no multispectral image of it", value=0.0, unit="px")
    return found


@tag(stage="validation")
def water_surface(clear_observations: dict[str, Observation | None]) -> Findings:
    """``MNDWI = (B03 − B11)/(B03 + B11)`` and ``NDWI = (B03 − B08)/(B03 + B08)`` of the object, with scene class 6.

    Water: both above 0 (Xu 2006, Int. J. Remote Sens. 27(14); McFeeters 1996, ibid. 17(7)), near infrared under 0.10.
    Modules reflect more in the short-wave infrared than in green, so that their MNDWI is well below 0. Decisive where
    NDWI exceeds 0.3 as well; scene class 6 alone is not, because dark panels carry it too (``utils.scl``).

    Log-odds: +0.5 at MNDWI −0.3 and less, −1 at 0.2 and more, −4 there for water; scene class 6 takes off up to 0.5.
    """
    found = {}
    for one, seen in clear_observations.items():
        mndwi, ndwi = (float("nan") if seen is None else seen.index(name) for name in ("mndwi", "ndwi"))
        if seen is None or not np.isfinite([mndwi, ndwi]).all():
            found[one] = abstains("water_surface", "too small or not seen in multispectral imagery")
            continue
        nir = seen.band("B08")
        wet = bool(mndwi > 0 and ndwi > 0 and nir < 0.10)
        odds = scaled(mndwi, 0.2, -0.3, against=4.0 if wet else 1.0, speaks_for=0.5) - 0.5 * seen.water_share
        looks = "too little short-wave infrared for modules" if odds <= -NEUTRAL else "not like water"
        looks = "looks like water" if wet else looks
        words = f"{looks}: MNDWI {mndwi:+.2f}, near infrared {nir:.2f}"
        found[one] = finding(
            "water_surface", mndwi, "-1 to 1", odds, words, decisive=wet and ndwi > 0.3,
            seen=seen, details={"ndwi": ndwi, "nir": nir, "water_share": seen.water_share},
        )  # fmt: skip
    return found


@tag(stage="validation")
def vegetation_cover(clear_observations: dict[str, Observation | None]) -> Findings:
    """``NDVI = (B08 − B04)/(B08 + B04)`` of the object (Rouse et al. 1974, NASA SP-351).

    Modules come near 0.1 to 0.2, with grass between rows up to 0.4; a canopy exceeds 0.5. Decisive above 0.65.

    Log-odds: +0.5 at 0.2 and less, −3 at 0.6 and more.
    """
    found = {}
    for one, seen in clear_observations.items():
        if seen is None or not np.isfinite(ndvi := seen.index("ndvi")):
            found[one] = abstains("vegetation_cover", "too small or not seen in multispectral imagery")
            continue
        odds = scaled(ndvi, 0.6, 0.2, against=3.0, speaks_for=0.5)
        looks = "green" if ndvi > 0.45 else "partly green" if odds <= -NEUTRAL else "not green"
        words = f"{looks}: NDVI {ndvi:+.2f}"
        found[one] = finding(
            "vegetation_cover", ndvi, "-1 to 1", odds, words, decisive=ndvi > 0.65,
            seen=seen, details={"ring_z": seen.z.get("ndvi")},
        )  # fmt: skip
    return found


@tag(stage="validation")
def bright_cover(clear_observations: dict[str, Observation | None]) -> Findings:
    """Mean visible reflectance ``(B02 + B03 + B04)/3`` of the object: plastic film, glass houses, white roofs.

    Modules absorb the visible, 0.05 to 0.12 from above (Czirjak 2017, J. Appl. Remote Sens. 11(2)); plastic film and
    greenhouse glass over crops reflect 0.15 to 0.4 and scatter the near infrared (Yang et al. 2017, ISPRS J. 128,
    plastic greenhouse index). Decisive above 0.25.

    Log-odds: +0.5 at 0.10 and less, −3 at 0.18 and more.
    """
    found = {}
    for one, seen in clear_observations.items():
        visible = float("nan") if seen is None else float(np.mean([seen.band(band) for band in ("B02", "B03", "B04")]))
        if seen is None or not np.isfinite(visible):
            found[one] = abstains("bright_cover", "too small or not seen in multispectral imagery")
            continue
        odds = scaled(visible, 0.18, 0.10, against=3.0, speaks_for=0.5)
        words = f"{'brighter than modules' if odds < 0 else 'as dark as modules'}: visible reflectance {visible:.2f}"
        found[one] = finding(
            "bright_cover", visible, "reflectance 0-1", odds, words, decisive=visible > 0.25,
            seen=seen, details={"ring_z": seen.z.get("br"), "nir": seen.band("B08")},
        )  # fmt: skip
    return found


@tag(stage="validation")
def pv_spectrum(clear_observations: dict[str, Observation | None]) -> Findings:
    """Spectral angle to the nearest module less that to the nearest other surface, radians.

    ``arccos(s·r/|s||r|)`` (Kruse et al. 1993, Remote Sens. Environ. 44) with the approximate references of
    ``utils.reference_spectra`` (shapes after Czirjak 2017 and Ji et al. 2021).

    Log-odds: +1.5 at −0.15 rad and less, −2 at 0.15 rad and more.
    """
    found = {}
    for one, seen in clear_observations.items():
        if seen is None or not np.isfinite(seen.object).all():
            found[one] = abstains("pv_spectrum", "too small or not seen in multispectral imagery")
            continue
        near = resemblance(seen.object, seen.bands)
        margin = near.pv_angle - near.other_angle
        odds = scaled(margin, 0.15, -0.15, against=2.0, speaks_for=1.5)
        nearest = near.pv_name if margin < 0 else near.other_name
        words = (
            f"spectrum nearest to {nearest} ({near.pv_angle:.2f} rad from modules, {near.other_angle:.2f} from others)"
        )
        found[one] = finding(
            "pv_spectrum",
            margin,
            "rad",
            odds,
            words,
            seen=seen,
            details={"pv_angle": near.pv_angle, "other_angle": near.other_angle},
        )
    return found


@tag(stage="validation")
def ring_contrast(clear_observations: dict[str, Observation | None]) -> Findings:
    """z-score of NDPVI inside less its local ring, ``(m₁ − m₂)/√(s₁²/n₁ + s₂²/n₂)`` (Welch 1947, Biometrika 34).

    Means are weighted by area fraction, n are effective pixels. ``NDPVI = (0.5·B02 − B08)/(0.5·B02 + B08)`` (PV feature
    set of GM-SEUS) rises where near infrared gives way to dark, bluish modules. z of the other indices are details.

    Log-odds: +0.75 at z = 3 and more, −1 at −2 and less.
    """
    found = {}
    for one, seen in clear_observations.items():
        if seen is None or "ndpvi" not in seen.z:
            found[one] = abstains("ring_contrast", "too small, not seen, or without surroundings to compare with")
            continue
        z = seen.z["ndpvi"]
        odds = scaled(z, -2.0, 3.0, against=1.0, speaks_for=0.75)
        stands = "stands" if odds >= NEUTRAL else "does not stand" if odds <= -NEUTRAL else "hardly stands"
        words = f"{stands} out from its surroundings: NDPVI {z:+.1f} standard errors from theirs"
        others: dict[str, float | None] = {f"{name}_z": value for name, value in seen.z.items()}
        found[one] = finding(
            "ring_contrast", z, "standard errors", odds, words, seen=seen, details={"ring_px": seen.ring_px} | others
        )
    return found


@tag(stage="validation")
def spectral_persistence(msi_observations: dict[str, list[Observation]], rules: ValidationRules) -> Findings:
    """Spectral angle between the object on its two nearest clear dates, radians (Kruse et al. 1993).

    A plant that stands stays the same (under 0.1 rad); one that was built between the dates does not, and neither do
    crops and film on fields. So an equal spectrum speaks a little for, and a changed one not against. Dates beyond
    ``max_days`` count here, as they show change.

    Log-odds: +0.3 at 0.05 rad and less, 0 at 0.15 rad and more.
    """
    found = {}
    for one, dates in msi_observations.items():
        clear = [seen for seen in dates if seen.clear_px >= rules.min_effective_px and np.isfinite(seen.object).all()]
        if len(clear) < 2:
            found[one] = abstains("spectral_persistence", "fewer than two clear multispectral dates")
            continue
        first, second = clear[:2]
        norm = float(np.linalg.norm(first.object) * np.linalg.norm(second.object))
        angle = float(np.arccos(np.clip(first.object @ second.object / max(norm, 1e-9), -1, 1)))
        pair = " and ".join(f"{at:%Y-%m-%d}" for at in sorted((first.acquired_at, second.acquired_at)))
        words = f"{'the same' if angle < 0.1 else 'changed'} between {pair}: {angle:.2f} rad"
        found[one] = finding(
            "spectral_persistence", angle, "rad", scaled(angle, 0.15, 0.05, against=0.0, speaks_for=0.3), words,
            seen=Together(first, second),
        )  # fmt: skip
    return found


def _clear_words(seen: Observation) -> str:
    return f"clear on {seen.acquired_at:%Y-%m-%d}, {seen.clear_px:.0f} effective pixels"
