"""Segmentation without weights: what a prompt makes likely, weighed against what the colours say.

Pure array maths behind the ``classical`` mask backend. A map of how likely each pixel is the object follows from the
prompt's geometry (:mod:`utils.object_priors`); the pixels it is sure about teach the colours of the object and of what
surrounds it (:mod:`utils.colour_evidence`); both log-odds add up.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.colour_evidence import ColourEvidence, PaletteSizes, colour_evidence, lab_image, main_colours
from utils.mask_shapes import filled, largest_pieces, morphed, piece_at
from utils.object_priors import Hint, ObjectPrior, object_prior, smoothed
from utils.segmentation_settings import ClassicalSettings, Window
from utils.types import ChipGrid

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SPLIT = 3
"""Colours among which the main one of a prompt without surroundings is sought."""
_FAR_BRIGHTER, _FAR_WARMER = 20.0, 20.0
"""Differences in CIELAB L and a + b that no array shows within itself at the size of a module."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outline:
    """What was found in a window."""

    mask: Bools
    """True inside the object, shape (rows, columns)."""
    prompt: Bools
    """The visible pixels of the prompt itself, likewise."""
    contrast: float | None
    """How well colours tell the object from the rest, 0 to 1; None when they cannot and ``mask`` is the prompt."""


def colour_features(rgb: Bytes, valid: Bools, grid: ChipGrid, settings: ClassicalSettings) -> Floats:
    """Colours of a chip, as they are and blurred to the size of a module; shape (rows, columns, 6).

    Args:
        rgb: shape (3, rows, columns).
        valid: True where pixels hold data; the others do not leak into the blur.
        grid: of the chip, for the ground size of a pixel.
        settings: of the method.
    """
    lab = lab_image(rgb, settings.median_px)
    weight = valid.astype(np.float32)
    held = np.maximum(smoothed(weight, settings.blur_m, grid), 1e-3)[..., None]
    blurred = smoothed(lab * weight[..., None], settings.blur_m, grid) / held
    return np.concatenate([settings.fine_weight * lab, blurred], axis=-1)


def outlined(window: Window, hint: Hint, settings: ClassicalSettings) -> Outline:
    """The object a hint speaks of.

    Args:
        window: pixels around the hint.
        hint: what is known of the object.
        settings: of the method.
    """
    prior = object_prior(window, hint, settings)
    evidence, log_odds = _weighed(window, prior, settings)
    surroundings = int((window.valid & ~prior.box).sum()) / max(1, int(prior.box.sum()))
    if evidence is None or (surroundings < settings.min_context_ratio and evidence.contrast < settings.min_contrast):
        return Outline(mask=_without_strangers(window, prior, settings), prompt=prior.box, contrast=None)
    log_odds = smoothed(np.clip(log_odds, -6, 6), settings.smooth_m, window.grid)
    raw = ((log_odds > -settings.bias) & prior.limit | prior.on).astype(np.uint8)
    closed = morphed(raw, cv2.MORPH_CLOSE, settings.close_m, window.grid)
    opened = morphed(closed, cv2.MORPH_OPEN, settings.open_m, window.grid)
    tidy = filled(opened if opened.any() else closed) & prior.limit & ~prior.off
    mask = piece_at(tidy, prior.core) if hint.kind == "point" else largest_pieces(tidy, settings.piece_share)
    return Outline(mask=mask, prompt=prior.box, contrast=evidence.contrast)


def _without_strangers(window: Window, prior: ObjectPrior, settings: ClassicalSettings) -> Bools:
    """The prompt without what is far brighter or warmer than its main colour: no more can be said."""
    box = prior.box & ~prior.off
    if not box.any():
        return box
    blurred = window.colours[..., 3:]
    main = main_colours(blurred[box], _SPLIT)
    own = main.centres[int(main.shares.argmax())]
    brighter, warmer = blurred[..., 0] - own[0], blurred[..., 1:].sum(axis=-1) - own[1:].sum()
    alike = (box & (brighter < _FAR_BRIGHTER) & (warmer < _FAR_WARMER)).astype(np.uint8)
    closed = morphed(alike, cv2.MORPH_CLOSE, settings.close_m, window.grid)
    opened = morphed(closed, cv2.MORPH_OPEN, settings.close_m, window.grid)
    return box & (opened > 0) if opened.any() else box


def _weighed(window: Window, prior: ObjectPrior, settings: ClassicalSettings) -> tuple[ColourEvidence | None, Floats]:
    """The last evidence of colours, and its log-odds together with those of the prompt, shape (rows, columns)."""
    shape = window.valid.shape
    sizes = PaletteSizes(
        own_colours=settings.own_colours,
        other_colours=settings.other_colours,
        least_spread=settings.least_spread,
        strongest=settings.strongest,
        warm_from=settings.warm_from,
        warm_weight=settings.warm_weight,
    )
    colours = window.colours.reshape(-1, window.colours.shape[-1])
    # both must look warm: at an edge the blur takes colour from beyond it
    warmth = np.minimum(colours[:, 1:3].sum(axis=1) / np.float32(settings.fine_weight), colours[:, 4:6].sum(axis=1))
    log_prior = prior.log_odds(None)
    evidence, total = None, log_prior
    for _ in range(settings.rounds):
        likely = 1 / (1 + np.exp(-total.ravel()))
        found = colour_evidence(
            colours,
            warmth,
            np.where(window.valid.ravel(), likely, 0.5),
            prior.near.ravel(),
            ((prior.on & window.valid).ravel(), (prior.off & window.valid).ravel()),
            sizes,
        )
        if found is None:
            break
        # what was learnt once is no judge of itself: the contrast is that of pixels the prompt alone made sure
        evidence = found if evidence is None else replace(found, contrast=evidence.contrast)
        speaks = found.log_odds.reshape(shape)
        log_prior = prior.log_odds(speaks)
        total = log_prior + speaks
    if evidence is None:
        return None, log_prior
    return evidence, settings.shape_weight * log_prior + evidence.log_odds.reshape(shape)
