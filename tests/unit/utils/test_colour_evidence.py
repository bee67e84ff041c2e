from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from utils.colour_evidence import ColourEvidence, PaletteSizes, colour_evidence, joined, lab_image, main_colours

SIZES = PaletteSizes(own_colours=2, other_colours=6, least_spread=4.0, strongest=4.0, warm_from=10.0, warm_weight=5.0)
NONE = np.zeros(1000, dtype=np.bool_)


def evidence(colours: NDArray[Any], likely: NDArray[Any], **changes: Any) -> ColourEvidence | None:
    given_: dict[str, Any] = {
        "warmth": np.zeros(len(colours), np.float32),
        "near": np.ones(len(colours), np.bool_),
        "fixed": (NONE, NONE),
    } | changes
    return colour_evidence(
        colours.astype(np.float32), given_["warmth"], likely.astype(np.float32), given_["near"], given_["fixed"], SIZES
    )


def two_sides(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Half the pixels dark and likely, half of them bright and unlikely."""
    rng = np.random.default_rng(seed)
    on = np.arange(1000) < 500
    colours = np.where(on[:, None], [30.0, 0.0, -8.0], [70.0, 2.0, 6.0]) + rng.normal(0, 3, (1000, 3))
    return colours, np.where(on, 0.95, 0.02)


def test_lab_agrees_with_opencv_pixel_by_pixel() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    found = lab_image(rgb, 1)
    pixel = cv2.cvtColor(rgb[:, 2, 3].reshape(1, 1, 3).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0, 0]
    assert found.shape == (5, 7, 3)
    assert found[2, 3] == pytest.approx(pixel, abs=1e-3)


def test_clusters_are_found_with_their_shares() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([[20, 0, 0], [45, 10, -10], [65, 0, 5], [90, -20, 20]], dtype=np.float32)
    which = rng.integers(0, 4, 9000)
    found = main_colours((truth[which] + rng.normal(0, 1, (9000, 3))).astype(np.float32), 4)
    order = np.argsort(found.centres[:, 0])
    assert np.abs(found.centres[order] - truth).max() < 1.0
    assert found.shares[order] == pytest.approx([0.25] * 4, abs=0.03)


@given(st.integers(1, 12), st.integers(1, 6))
def test_few_samples_give_few_colours(count: int, colours: int) -> None:
    found = main_colours(np.random.default_rng(count).uniform(0, 255, (count, 3)).astype(np.float32), colours)
    assert found.centres.shape == (min(count, colours), 3)
    assert np.isfinite(found.centres).all()
    assert found.shares.sum() == pytest.approx(1.0)


def test_one_colour_everywhere_is_no_trouble() -> None:
    found = main_colours(np.full((500, 3), 7, dtype=np.float32), 4)
    assert np.isfinite(found.centres).all()


def test_opencv_random_state_is_left_alone_and_unused() -> None:
    samples = np.random.default_rng(0).uniform(0, 255, (3000, 3)).astype(np.float32)
    cv2.setRNGSeed(1)
    first = main_colours(samples, 4)
    cv2.setRNGSeed(2)
    assert (main_colours(samples, 4).centres == first.centres).all()


def test_palettes_count_alike_when_joined() -> None:
    one, two = (
        main_colours(np.full((size, 3), size, np.float32) + np.eye(size, 3, dtype=np.float32), 2) for size in (5, 50)
    )
    assert joined([one, two]).shares.sum() == pytest.approx(1.0)


def test_colours_of_either_side_speak_for_it() -> None:
    colours, likely = two_sides()
    found = evidence(colours, likely)
    assert found is not None
    assert (found.log_odds[:500] > 1).mean() > 0.98
    assert (found.log_odds[500:] < -1).mean() > 0.98
    assert np.abs(found.log_odds).max() <= SIZES.strongest
    assert found.contrast > 0.9


def test_sides_of_one_colour_have_no_contrast() -> None:
    colours = np.random.default_rng(0).normal([50, 0, 0], 3, (1000, 3))
    found = evidence(colours, np.where(np.arange(1000) < 500, 0.95, 0.02))
    assert found is not None
    assert found.contrast < 0.25


def test_a_colour_common_off_the_object_is_not_its_own() -> None:
    """A twin beyond the box is rarer there than on the object: it still speaks for the object."""
    colours, likely = two_sides()
    colours[500:600] = colours[:100]
    found = evidence(colours, likely)
    assert found is not None
    assert found.log_odds[:500].mean() > 1


def test_much_warmer_pixels_lose() -> None:
    colours, likely = two_sides()
    colours[:3] = [49.0, 1.0, -1.0]
    warmth = np.zeros(1000, np.float32)
    warmth[:3] = 40
    plain, cooled = evidence(colours, likely), evidence(colours, likely, warmth=warmth)
    assert plain is not None
    assert cooled is not None
    assert (cooled.log_odds[:3] < plain.log_odds[:3]).all()
    assert (cooled.log_odds[3:] == plain.log_odds[3:]).all()


def test_points_teach_their_side() -> None:
    colours, likely = two_sides()
    off = NONE.copy()
    off[:100] = True
    colours[:100] = [50, 30, 30]
    found = evidence(colours, likely, fixed=(NONE, off))
    assert found is not None
    assert (found.log_odds[:100] < 0).all()


def test_one_side_alone_teaches_nothing() -> None:
    colours, _ = two_sides()
    assert evidence(colours, np.full(1000, 0.9)) is None
    assert evidence(colours, np.full(1000, 0.01), near=NONE, fixed=(NONE, ~NONE)) is None
