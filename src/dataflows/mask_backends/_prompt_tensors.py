"""Pixel prompts as tensors in a model's frame, and its answers back at image resolution."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.pixel_prompts import PixelPrompt

_PREVIOUS = 10.0


def box_tensor(prompts: Sequence[PixelPrompt], scale: tuple[float, float], device: str) -> Any:
    """Boxes in the model's frame, shape (n, 4) as ``(x0, y0, x1, y1)``; None where the prompts have none.

    SAM's prompt encoders take whole numbers for pixel centres and add ½; ours count from pixel corners, so that ½ pixel
    of the model's frame is taken off first.

    Args:
        prompts: of one signature.
        scale: pixels of the model's frame per image pixel, ``(x, y)``.
        device: where the tensor goes.
    """
    import torch  # noqa: PLC0415 - seconds that listing backends need not take

    if prompts[0].box is None:
        return None
    corners = np.array([prompt.box for prompt in prompts], np.float64).reshape(-1, 2, 2) * np.array(scale) - 0.5
    return torch.as_tensor(corners.reshape(-1, 4), dtype=torch.float32, device=device)


def point_tensors(prompts: Sequence[PixelPrompt], scale: tuple[float, float], device: str) -> tuple[Any, Any]:
    """Points in the model's frame, shape (n, p, 2), and their labels, shape (n, p); a pair of None without points.

    The arguments and the ½ pixel are those of :func:`box_tensor`.
    """
    import torch  # noqa: PLC0415

    if not len(prompts[0].points):
        return None, None
    points = np.stack([prompt.points for prompt in prompts]).astype(np.float64) * np.array(scale) - 0.5
    labels = np.stack([prompt.point_labels for prompt in prompts])
    return (
        torch.as_tensor(points, dtype=torch.float32, device=device),
        torch.as_tensor(labels, dtype=torch.int32, device=device),
    )


def previous_tensor(
    prompts: Sequence[PixelPrompt], frame: tuple[int, int], filled: tuple[int, int], device: str
) -> Any:
    """Earlier masks as the logits a prompt encoder takes, shape (n, 1, rows, columns); None where there are none.

    Inside is +10, outside and padding −10: what SAM 2 writes for a given mask; edges lie between, by area.

    Args:
        prompts: of one signature.
        frame: rows and columns of the encoder's mask input.
        filled: rows and columns of it that the image takes, from the upper left; the rest is padding.
        device: where the tensor goes.
    """
    import torch  # noqa: PLC0415
    from torch.nn import functional  # noqa: PLC0415

    if prompts[0].previous is None:
        return None
    stacked = np.stack([np.asarray(prompt.previous) for prompt in prompts])
    masks = torch.as_tensor(stacked, dtype=torch.float32, device=device)
    small = functional.interpolate(masks[:, None], filled, mode="bilinear", antialias=True, align_corners=False)
    padded = functional.pad(small, (0, frame[1] - filled[1], 0, frame[0] - filled[0]))
    return padded * (2 * _PREVIOUS) - _PREVIOUS


def at_image_size(logits: Any, size: tuple[int, int], padded: tuple[int, int, int] | None = None) -> Any:
    """Low-resolution logits, shape (n, k, rows, columns), at ``size`` rows and columns, float32.

    Args:
        logits: as the mask decoder gives them.
        size: rows and columns of the image.
        padded: side of the model's input and the rows and columns of it that the image takes, for models whose images
            are padded: their logits go through that size first.
    """
    from torch.nn import functional  # noqa: PLC0415

    found = logits.float()
    if padded is not None:
        side, rows, columns = padded
        found = functional.interpolate(found, (side, side), mode="bilinear", align_corners=False)
        found = found[..., :rows, :columns]
    return functional.interpolate(found, size, mode="bilinear", align_corners=False)


def best_candidate(logits: Any, rated: Any) -> tuple[Any, Any]:
    """Of k candidates the one rated best: shapes (n, 1, rows, columns) and (n, 1). A NaN is rated 0.

    Only this one is worth bringing to image size.
    """
    import torch  # noqa: PLC0415

    chosen = torch.nan_to_num(rated.float(), nan=0.0).argmax(dim=1)
    rows = torch.arange(len(chosen), device=chosen.device)
    return logits[rows, chosen][:, None], rated[rows, chosen][:, None]
