"""Augmentation that is a function of (seed, epoch, row): resuming or adding workers changes nothing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to each training sample. Images and targets move together; radiometry leaves targets alone."""

    seed: int
    """Seed of every draw."""
    crop_px: int | None = None
    """Side of the random square crop, pixels; None keeps the whole chip."""
    on_target: float = 0.5
    """Probability that the crop is placed over a PV pixel, where the chip has one."""
    dihedral: bool = True
    """Whether quarter turns and mirror images are drawn, all eight alike."""
    gain: float = 0.1
    """Largest relative change of a channel's scale, drawn uniformly per channel."""
    offset: float = 0.02
    """Largest shift of a channel as a share of full range (255, or reflectance 1), drawn uniformly per channel."""

    def apply(
        self, images: NDArray[np.generic], targets: NDArray[np.uint8], epoch: int, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.generic], NDArray[np.uint8]]:
        """New arrays from ``images`` (n, channels, H, W) and ``targets`` (n, H, W); ``rows`` are the row numbers."""
        pairs = [
            self._one(image, target, np.random.default_rng([self.seed, epoch, int(row)]))
            for image, target, row in zip(images, targets, rows, strict=True)
        ]
        return np.stack([image for image, _ in pairs]), np.stack([target for _, target in pairs])

    def _one(
        self, image: NDArray[np.generic], target: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.generic], NDArray[np.uint8]]:
        top, left, side_y, side_x = self._crop(target, rng)
        image = image[:, top : top + side_y, left : left + side_x]
        target = target[top : top + side_y, left : left + side_x]
        if self.dihedral:
            turns, mirror = (int(value) for value in rng.integers((4, 2)))
            # a quarter turn would swap the sides of a chip that is not square
            turns = turns if side_y == side_x else turns // 2 * 2
            image, target = np.rot90(image, turns, (1, 2)), np.rot90(target, turns)
            if mirror:
                image, target = image[:, :, ::-1], target[:, ::-1]
        return self._radiometry(image, rng), target

    def _crop(self, target: NDArray[np.uint8], rng: np.random.Generator) -> tuple[int, int, int, int]:
        height, width = target.shape
        side_y, side_x = min(height, self.crop_px or height), min(width, self.crop_px or width)
        top, left = (int(value) for value in rng.integers((height - side_y + 1, width - side_x + 1)))
        positive = np.flatnonzero(target == 1) if (side_y, side_x) != target.shape else ()
        if len(positive) and rng.random() < self.on_target:
            row, column = divmod(int(rng.choice(positive)), width)
            top = int(np.clip(row - rng.integers(side_y), 0, height - side_y))
            left = int(np.clip(column - rng.integers(side_x), 0, width - side_x))
        return top, left, side_y, side_x

    def _radiometry(self, image: NDArray[np.generic], rng: np.random.Generator) -> NDArray[np.generic]:
        full = 255.0 if image.dtype == np.uint8 else 1.0
        shape = (len(image), 1, 1)
        gain = rng.uniform(1 - self.gain, 1 + self.gain, shape).astype(np.float32)
        offset = rng.uniform(-self.offset, self.offset, shape).astype(np.float32) * np.float32(full)
        changed: NDArray[np.float32] = image.astype(np.float32) * gain + offset
        return np.clip(np.rint(changed), 0, 255).astype(np.uint8) if image.dtype == np.uint8 else changed
