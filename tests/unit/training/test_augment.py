import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.augment import Augmentation


def chips(n: int = 6, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Images whose first channel repeats the target, so that joint movement can be seen."""
    rng = np.random.default_rng(3)
    targets = rng.choice(np.array([0, 1, 255], np.uint8), (n, size, size), p=[0.7, 0.2, 0.1])
    return np.repeat(targets[:, None], 3, axis=1), targets


@given(st.integers(0, 9), st.sampled_from([None, 5, 12, 40]))
def test_image_and_target_move_together(epoch: int, crop_px: int | None) -> None:
    images, targets = chips()
    still = Augmentation(seed=1, crop_px=crop_px, gain=0, offset=0)
    moved, moved_targets = still.apply(images, targets, epoch, np.arange(6))
    side = min(crop_px or 12, 12)
    assert moved.shape == (6, 3, side, side)
    assert moved.dtype == np.uint8
    np.testing.assert_array_equal(moved[:, 0], moved_targets)


def test_a_sample_depends_on_epoch_and_row_and_not_on_its_batch() -> None:
    images, targets = chips()
    augmentation = Augmentation(seed=1, crop_px=8)
    together, _ = augmentation.apply(images, targets, 2, np.arange(6))
    alone, _ = augmentation.apply(images[4:5], targets[4:5], 2, np.array([4]))
    np.testing.assert_array_equal(together[4], alone[0])
    later, _ = augmentation.apply(images, targets, 3, np.arange(6))
    assert (later != together).any()


def test_radiometry_stays_in_range_and_leaves_targets_alone() -> None:
    images, targets = chips()
    loud = Augmentation(seed=0, dihedral=False, gain=0.5, offset=0.5)
    changed, same = loud.apply(images, targets, 0, np.arange(6))
    np.testing.assert_array_equal(same, targets)
    assert changed.dtype == np.uint8
    assert (changed != images).any()
    reflectance = np.where(images[:, :2] == 255, np.nan, images[:, :2] / 255).astype(np.float32)
    changed, _ = loud.apply(reflectance, targets, 0, np.arange(6))
    assert changed.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(changed), np.isnan(reflectance))


def test_all_eight_orientations_are_drawn() -> None:
    image = np.arange(9, dtype=np.uint8).reshape(1, 1, 3, 3)
    still = Augmentation(seed=0, gain=0, offset=0)
    seen = {still.apply(image, image[:, 0], epoch, np.array([0]))[0].tobytes() for epoch in range(200)}
    assert len(seen) == 8


def test_chips_that_are_not_square_keep_their_shape() -> None:
    image = np.zeros((4, 1, 4, 6), np.uint8)
    moved, _ = Augmentation(seed=0).apply(image, image[:, 0], 0, np.arange(4))
    assert moved.shape == (4, 1, 4, 6)


@pytest.mark.parametrize(("on_target", "share"), [(1.0, 1.0), (0.0, 0.1)])
def test_crops_find_the_panel_as_often_as_asked(on_target: float, share: float) -> None:
    target = np.zeros((1, 60, 60), np.uint8)
    target[0, 2:5, 50:53] = 1
    augmentation = Augmentation(seed=5, crop_px=10, on_target=on_target, dihedral=False)
    hits = [augmentation.apply(target[:, None], target, epoch, np.array([0]))[1].any() for epoch in range(100)]
    assert np.mean(hits) >= share if on_target else np.mean(hits) <= share
