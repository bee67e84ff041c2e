"""Rules of validation on outline, score and labels: each node is one rule, its docstring its formula and source."""

import numpy as np
import pyarrow as pa
import shapely
from hamilton.function_modifiers import tag

from dataflows._findings import NEUTRAL, finding, scaled
from dataflows.validation_config import ValidationRules
from utils.evidence import Finding, abstains
from utils.geo import reproject, utm_epsgs
from utils.shape_evidence import Shapes, shapes

Findings = dict[str, Finding]


@tag(stage="validation")
def outline_shapes(
    detections: pa.Table, detection_outlines: dict[str, shapely.Geometry], readable: list[str]
) -> dict[str, dict[str, float]]:
    """Detection id → figures of its outline (``utils.shape_evidence``), in the UTM zone it lies in."""
    zones = utm_epsgs(detections["lon"].to_numpy(), detections["lat"].to_numpy()).tolist()
    of_detection = dict(zip(detections["detection_id"].to_pylist(), zones, strict=True))
    found = {}
    for one in readable:
        measured: Shapes = shapes(np.array([reproject(detection_outlines[one], 4326, of_detection[one])]))
        found[one] = {name: float(values[0]) for name, values in vars(measured).items()}
    return found


@tag(stage="validation")
def model_score(detections: pa.Table, readable: list[str]) -> Findings:
    """Mean probability ``p̄`` of the detector over the object's pixels, on a scale from 0.55 to 0.92.

    Pixels are chosen by a threshold on the same probability, so that their mean lies above it, and networks are
    over-confident (Guo et al. 2017, ICML): it counts for less than its own log-odds.

    Log-odds: +1.25 at 0.92 and more, −1 at 0.55 and less.
    """
    rows = {row["detection_id"]: row for row in detections.select(["detection_id", "score", "score_p90"]).to_pylist()}
    found = {}
    for one in readable:
        score, high = rows[one]["score"], rows[one]["score_p90"]
        odds = scaled(score, 0.55, 0.92, against=1.0, speaks_for=1.25)
        words = f"{'sure' if odds > 0 else 'weak'} find: detector's mean probability {score:.2f}"
        found[one] = finding("model_score", score, "0-1", odds, words, details={"p90": high})
    return found


@tag(stage="validation")
def plausible_size(outline_shapes: dict[str, dict[str, float]]) -> Findings:
    """Area of the outline, m²; least that of a few modules.

    A module has 1.6 to 2.6 m², a household array ten or more of them (IEA PVPS Trends). Below 6 m² an object is rather
    a car, a roof window or a speck; the scale runs over the logarithm.

    Log-odds: +0.5 at 20 m² and more, −1.25 at 5 m² and less.
    """
    found = {}
    for one, shape in outline_shapes.items():
        area = shape["area_m2"]
        odds = scaled(float(np.log(max(area, 1e-3))), float(np.log(5)), float(np.log(20)), against=1.25, speaks_for=0.5)
        found[one] = finding(
            "plausible_size",
            area,
            "m²",
            odds,
            f"{'small' if odds <= -NEUTRAL else 'large enough'} for an array: {area:.0f} m²",
            details={name: shape[name] for name in ("length_m", "width_m")},
        )
    return found


@tag(stage="validation")
def plausible_shape(outline_shapes: dict[str, dict[str, float]]) -> Findings:
    """Rectangularity: area over that of the least rotated rectangle (Rosin 1999, Mach. Vis. Appl. 11).

    Arrays are rows of rectangles: 0.8 and more, whatever their elongation; ragged patches of a surface come near 0.5 to
    0.7. Elongation, compactness and solidity are details.

    Log-odds: +0.5 at 0.85 and more, −1 at 0.55 and less.
    """
    found = {}
    for one, shape in outline_shapes.items():
        value = shape["rectangularity"]
        odds = scaled(value, 0.55, 0.85, against=1.0, speaks_for=0.5)
        words = f"{'ragged' if odds < 0 else 'rectangular'} outline: fills {value:.0%} of its rectangle"
        parts: dict[str, float | None] = {name: shape[name] for name in ("elongation", "compactness", "solidity")}
        found[one] = finding("plausible_shape", value, "0-1", odds, words, details=parts)
    return found


@tag(stage="validation")
def known_pv(
    detections: pa.Table, readable: list[str], label_distances: dict[str, float], rules: ValidationRules
) -> Findings:
    """Distance to the nearest known label of photovoltaics, metres, or its IoU where the search matched one.

    A match speaks for; one near speaks a little for, because arrays stand together; none is neutral: labels are never
    complete. Not used by the calibrated model, which learns from labels.

    Log-odds: +2 for a match, +0.25 within ``near_pv_m``, else 0.
    """
    rows = {row["detection_id"]: row for row in detections.select(["detection_id", "match", "match_iou"]).to_pylist()}
    found = {}
    for one in readable:
        distance, matched = label_distances.get(one), rows[one]["match"] == "confirmed"
        if matched:
            found[one] = finding(
                "known_pv", distance or 0.0, "m", 2.0, "a known label marks it", details={"iou": rows[one]["match_iou"]}
            )
        elif distance is None:
            found[one] = abstains("known_pv", "no label on this ground to compare with")
        else:
            odds = NEUTRAL if distance <= rules.near_pv_m else 0.0
            found[one] = finding("known_pv", distance, "m", odds, f"nearest known photovoltaics {distance:.0f} m away")
    return found
