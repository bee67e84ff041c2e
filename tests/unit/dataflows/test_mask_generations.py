"""Nodes of a later generation: agreement with the first masks, and imagery that must be what it was."""

from dataclasses import replace

import numpy as np
import pytest

from dataflows import mask_generations as nodes
from dataflows.lance_writer import Provenance
from support.node_inputs import EPSG, HALO, PROFILE, plan_of, vhr_chip
from utils.errors import ImageryChangedError
from utils.failures import Failure

PROVENANCE = Provenance(
    run_id="run",
    build_config="config",
    recipes={"image": "i", "mask": "m", "index": "x"},
    mask_backend="other",
    label_catalog=None,
    label_snapshot=None,
    margin_share=0.0,
    generation=2,
)


def row(prompt_id, mask, uuid="chip"):
    return {
        "uuid": uuid,
        "prompt_id": prompt_id,
        "verdict": "accept",
        "flags": [],
        "score": 0.5,
        "scores": [("stability", 0.5)],
        "area_m2": 1.0,
        "mask": None if mask is None else mask.astype(np.uint8).tobytes(),
        "outline": None,
        "epsg": EPSG,
        "transform": [0.5, 0.0, 0.0, 0.0, -0.5, 0.0],
    }


def part(rows):
    mask = np.zeros((40, 40), bool)
    mask[:rows] = True
    return mask


def test_agreement_with_the_first_mask():
    first = {
        ("half", "chip"): part(20).ravel(),
        ("gone", "chip"): part(20).ravel(),
        ("found", "chip"): None,
        ("nothing", "chip"): None,
        ("half", "elsewhere"): part(3).ravel(),
    }
    asked = [("half", part(10)), ("gone", None), ("found", part(5)), ("nothing", None), ("new", part(7))]
    table = nodes.generation_rows([row(*one) for one in asked], [], first, PROVENANCE, PROFILE)
    found = {one["prompt_id"]: dict(one["scores"]) for one in table.to_pylist()}
    agreement = {name: scores.get("agreement") for name, scores in found.items()}
    assert agreement == {"half": 0.5, "gone": 0.0, "found": 0.0, "nothing": 1.0, "new": None}
    assert {scores["stability"] for scores in found.values()} == {0.5}
    assert set(table["generation"].to_pylist()) == {2}
    assert set(table["backend"].to_pylist()) == {"other"}
    assert table["quality"].null_count == table["calibration"].null_count == 5


def test_chips_that_changed_have_no_rows():
    failure = Failure.of("changed_imagery", ImageryChangedError("x"), uuid="bad")
    asked = [row("a", part(3)), row("b", part(3), uuid="bad")]
    table = nodes.generation_rows(asked, [failure], {}, PROVENANCE, PROFILE)
    assert table["prompt_id"].to_pylist() == ["a"]


@pytest.mark.parametrize("where", ["core", "halo", "shape", "gone", None])
def test_pixels_must_be_those_of_the_store(where):
    chip = vhr_chip()
    stored = chip.data[:, HALO:-HALO, HALO:-HALO].copy()
    if where == "core":
        stored[1, 3, 4] ^= 1
    elif where == "halo":
        # the halo is not stored
        changed = chip.data.copy()
        changed[:, 0, 0] ^= 1
        chip = replace(chip, data=changed)
    known = {"chip": stored[:, :-1] if where == "shape" else stored} if where != "gone" else {}
    failures = nodes.changed_imagery({"chip": chip}, known, HALO, plan_of("chip"))
    if where in ("halo", None):
        assert failures == []
        return
    [failure] = failures
    assert (failure.error_type, failure.uuid, failure.input_set) == ("ImageryChangedError", "chip", "inputs of chip")
    words = {"core": "in 1 of 1600 pixels", "shape": "reads as (3, 40, 40)", "gone": "not in the store"}
    assert words[where] in failure.message
