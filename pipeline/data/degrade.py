"""Making LR images. The task's definition: Pillow's antialiased bicubic on 8-bit pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from anysr.native.resize import resize_square
from pipeline.data.imresize import matlab_bicubic
from pipeline.data.photos import Pixels

Resizer = Callable[[Pixels, tuple[int, int]], Pixels]


def resize_bicubic(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize (H, W, 3) uint8 to ``size`` (height, width), up or down."""
    is_square = pixels.shape[0] == pixels.shape[1] and size[0] == size[1]  # as training's crops are
    if is_square and (resized := resize_square(pixels, size[0])) is not None:
        return resized
    # What Image.fromarray does, but for painting the new image black and copying the pixels first.
    image = Image.new("RGB", (pixels.shape[1], pixels.shape[0]), None)
    image.frombytes(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC))


RESIZERS: dict[str, Resizer] = {"pil": resize_bicubic, "matlab": matlab_bicubic}


def luma_8_bits(pixels: Pixels) -> npt.NDArray[np.float64]:
    """BT.601 luma, 16 ... 235 rounded to whole numbers, as (H, W, 1) doubles."""
    luma = pixels @ np.array([65.481, 128.553, 24.966]) / 255 + 16
    return np.floor(luma + 0.5)[..., None]


def lr_hr_pair(
    hr: npt.NDArray[Any], scale: float | Sequence[float], resize: Resizer = resize_bicubic
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """An LR image and the part of the HR image that it shows; see :func:`pair_sizes`.

    Args:
        hr: (H, W, C).
        scale: factor, or (s_h, s_w).
        resize: how the LR image is made.
    """
    lr_size, (height, width) = pair_sizes((hr.shape[0], hr.shape[1]), scale)
    cropped = np.ascontiguousarray(hr[:height, :width])
    return resize(cropped, lr_size), cropped


def pair_sizes(hr_size: tuple[int, int], scale: float | Sequence[float]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sizes of the LR image and of the HR image cropped, at its bottom and right, to what that shows.

    Each axis by its own factor, as in LIIF's evaluation: h = floor(H / s), and H is cropped to
    round(h * s). The floor forgives 1e-9, or 33 / 1.1 would be 29.
    """
    factors = (scale, scale) if isinstance(scale, int | float) else tuple(scale)
    height, width = (max(1, int(n / s + 1e-9)) for n, s in zip(hr_size, factors, strict=True))
    shown = (min(hr_size[0], round(height * factors[0])), min(hr_size[1], round(width * factors[1])))
    return (height, width), shown
