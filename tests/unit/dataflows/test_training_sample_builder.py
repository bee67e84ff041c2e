"""One row per chip: whose word counts for a mask pixel, and that every column fits its pixels."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import shapely
from hamilton import driver

from dataflows import s2_indexing, spectral_indices, training_sample_builder
from support.node_inputs import (
    EPSG,
    HALO,
    LEFT,
    PROFILE,
    TOP,
    block,
    judged,
    msi_chip,
    plan_of,
    prompt,
    prompts_of,
    vhr_chip,
)
from utils.geo import reproject
from utils.types import IGNORE

DRIVER = driver.Builder().with_modules(s2_indexing, spectral_indices, training_sample_builder).build()


def run(nodes, judged_masks, asked=None, *, msi=True, **changes):
    """Nodes for chips with these judged masks; prompts lie where the masks do unless given."""
    asked = asked or {
        uuid: [prompt(one.mask.prompt_id, *extent(one.mask.data)) for one in found]
        for uuid, found in judged_masks.items()
    }
    chips = {uuid: vhr_chip(seed=k) for k, uuid in enumerate(judged_masks)}
    given = {
        "vhr_chips": chips,
        "msi_chips": {uuid: msi_chip() for uuid in judged_masks} if msi else {},
        "judged_masks": judged_masks,
        "chip_prompts": asked,
        "prompts": prompts_of(asked),
        "chip_plan": plan_of(*judged_masks),
        "halo_px": HALO,
        "h3_resolution": 10,
        "chip_profile": PROFILE,
    }
    return DRIVER.execute(nodes, inputs=given | changes)


def extent(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return (0, 1), (0, 1)
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


def mask_of(*found, **changes):
    return run(["generated_masks"], {"chip": list(found)}, **changes)["generated_masks"]["chip"]


A, B = block((4, 12), (6, 20)), block((8, 20), (10, 16))


@pytest.mark.parametrize(("verdict", "value"), [("accept", 1), ("review", IGNORE), ("reject", IGNORE)])
def test_one_mask_alone(verdict, value):
    np.testing.assert_array_equal(mask_of(judged("a", verdict, A)), np.where(A, value, 0))


@pytest.mark.parametrize("other", ["review", "reject"])
@pytest.mark.parametrize("first", [True, False])
def test_an_accepted_mask_wins_where_two_overlap(other, first):
    found = [judged("a", "accept", A), judged("b", other, B)]
    mask = mask_of(*(found if first else found[::-1]))
    assert (mask[A] == 1).all()
    assert (mask[B & ~A] == IGNORE).all()
    assert (mask[~A & ~B] == 0).all()


def test_nodata_wins_over_everything():
    valid = np.ones((40 + 2 * HALO, 40 + 2 * HALO), bool)
    valid[: HALO + 10] = False
    found = [judged("a", "accept", A), judged("b", "reject", B)]
    mask = mask_of(*found, vhr_chips={"chip": vhr_chip(valid=valid)})
    assert (mask[:10] == IGNORE).all()
    assert (mask[10:][A[10:]] == 1).all()
    assert (mask[30:] == 0).all()


def test_no_prompt_no_pv():
    assert (mask_of() == 0).all()


def test_ground_somebody_called_pv_is_not_taught_as_background():
    """A rejected mask smaller than its prompt: the rest of the prompt's ground is unknown as well."""
    small = block((6, 8), (8, 12))
    asked = {"chip": [prompt("a", (4, 12), (6, 20))]}
    mask = mask_of(judged("a", "reject", small), asked=asked)
    np.testing.assert_array_equal(mask, np.where(A, IGNORE, 0))


def test_an_empty_mask_leaves_its_prompts_ground_unknown():
    asked = {"chip": [prompt("a", (4, 12), (6, 20))]}
    mask = mask_of(judged("a", "reject", np.zeros((40, 40), bool)), asked=asked)
    np.testing.assert_array_equal(mask, np.where(A, IGNORE, 0))


def test_a_second_label_on_an_accepted_roof_takes_nothing_away():
    """The prompt of the rejected mask has its centre on the accepted one: the same panel, drawn twice."""
    asked = {"chip": [prompt("a", (4, 12), (6, 20)), prompt("b", (2, 14), (4, 22))]}
    found = [judged("a", "accept", A), judged("b", "reject", np.zeros((40, 40), bool))]
    np.testing.assert_array_equal(mask_of(*found, asked=asked), A.astype(np.uint8))


def test_cores_are_chips_without_halo():
    chip = vhr_chip()
    core = run(["vhr_cores"], {"chip": []})["vhr_cores"]["chip"]
    np.testing.assert_array_equal(core.data, chip.data[:, HALO:-HALO, HALO:-HALO])
    assert core.grid.transform == pytest.approx((0.5, 0, LEFT, 0, -0.5, TOP))
    assert (core.grid.height, core.grid.width, core.scene_ids) == (40, 40, ("vhr scene",))
    bare = run(["vhr_cores"], {"chip": []}, vhr_chips={"chip": vhr_chip(halo=0)}, halo_px=0)["vhr_cores"]["chip"]
    assert bare.data.shape == (3, 40, 40)


def test_area_fractions_lie_under_the_chip():
    """40 px of 0.5 m are 2 × 2 multispectral pixels; PV fills one of them, and half of another."""
    mask = block((0, 20), (0, 20)) | block((20, 30), (0, 20))
    fractions = run(["msi_masks"], {"chip": [judged("a", "accept", mask)]})["msi_masks"]["chip"]
    wanted = np.full((8, 8), IGNORE)
    wanted[3:5, 3:5] = [[254, 0], [127, 0]]
    np.testing.assert_array_equal(fractions, wanted)


def test_a_row_holds_what_its_chip_does():
    found = [judged("a", "accept", A, score=0.9), judged("b", "review", B, score=0.5, flags=("clipped",))]
    [row] = run(["training_samples"], {"chip": found})["training_samples"]
    mask = np.frombuffer(row["generated_mask"], np.uint8).reshape(40, 40)
    known = mask != IGNORE
    assert row["pv_fraction"] == pytest.approx((mask == 1).sum() / known.sum())
    assert (row["n_prompts"], row["n_accepted"], row["n_review"], row["n_rejected"]) == (2, 1, 1, 0)
    assert row["quality_score"] == pytest.approx(0.9)
    assert row["quality_flags"] == ["below_accept_score", "clipped"]
    assert (row["uuid"], row["split"], row["partition"], row["input_set"]) == (
        "chip",
        "train",
        1 << 63,
        "inputs of chip",
    )
    assert row["vhr_transform"] == pytest.approx([0.5, 0, LEFT, 0, -0.5, TOP])
    assert (row["vhr_gsd_m"], row["msi_gsd_m"], row["vhr_epsg"], row["msi_epsg"]) == (0.5, 10.0, EPSG, EPSG)
    assert row["vhr_acquired_at"] == datetime(2023, 6, 14, 10, tzinfo=UTC)
    assert (row["vhr_valid_fraction"], row["cloud_fraction"]) == (1.0, 0.0)
    outline = reproject(shapely.from_wkb(row["footprint"]), 4326, EPSG)
    assert outline.symmetric_difference(shapely.box(LEFT, TOP - 20, LEFT + 20, TOP)).area < 1e-3
    asked = reproject(shapely.from_wkb(row["prompt_geometry"]), 4326, EPSG)
    assert asked.geom_type == "GeometryCollection"
    assert [round(part.area, 3) for part in asked.geoms] == [8 * 14 * 0.25, 12 * 6 * 0.25]
    assert row["vhr_image_chip"].shape == (3, 40, 40)
    assert row["msi_image_chip"].shape == (6, 8, 8)
    assert row["ndvi_chip"] is not None


def test_a_background_row_has_no_prompt_and_no_score():
    [row] = run(["training_samples"], {"chip": []})["training_samples"]
    assert (row["prompt_geometry"], row["quality_score"], row["n_prompts"], row["quality_flags"]) == (None, None, 0, [])
    assert row["pv_fraction"] == 0


def test_a_chip_of_which_nothing_is_known_has_no_fraction():
    everything = np.ones((40, 40), bool)
    [row] = run(["training_samples"], {"chip": [judged("a", "review", everything)]})["training_samples"]
    assert row["pv_fraction"] is None


def test_chips_the_backend_failed_on_have_no_row():
    rows = run(
        ["training_samples"], {"one": [], "two": [judged("a", "accept", A)]}, chip_plan=plan_of("one", "two", "gone")
    )
    assert [row["uuid"] for row in rows["training_samples"]] == ["one", "two"]


def test_without_multispectral_chips_the_columns_are_left_out():
    [row] = run(["training_samples"], {"chip": []}, msi=False)["training_samples"]
    assert not [name for name in row if name.startswith(("msi", "ndvi", "cloud"))]


@pytest.mark.parametrize(("scl", "cloud", "shadow"), [(3, 0.0, 1.0), (9, 1.0, 0.0), (5, 0.0, 0.0)])
def test_cloud_and_shadow_are_told_apart(scl, cloud, shadow):
    [row] = run(["training_samples"], {"chip": []}, msi_chips={"chip": msi_chip(scl=scl)})["training_samples"]
    assert (row["cloud_fraction"], row["shadow_fraction"]) == (cloud, shadow)


def test_a_chip_without_scene_classes_has_no_cloud_fraction():
    plain = msi_chip()
    [row] = run(["training_samples"], {"chip": []}, msi_chips={"chip": replace(plain, scl=None)})["training_samples"]
    assert row["cloud_fraction"] is row["shadow_fraction"] is None
    assert (row["msi_scl"] == 0).all()
