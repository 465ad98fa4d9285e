"""Making LR images. The task's definition: Pillow's antialiased bicubic on 8-bit pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pipeline.data.photos import Pixels


def resize_bicubic(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize (H, W, 3) uint8 to ``size`` (height, width), up or down."""
    image = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(image)


def lr_hr_pair(hr: Pixels, scale: float) -> tuple[Pixels, Pixels]:
    """An LR image and the part of the HR image that it shows.

    The LR image is floor(H / s) x floor(W / s) and the HR image is cropped at its bottom and right
    to round(h * s) x round(w * s), as LIIF's evaluation does.
    """
    height, width = (max(1, int(n / scale)) for n in hr.shape[:2])
    cropped = hr[: min(hr.shape[0], round(height * scale)), : min(hr.shape[1], round(width * scale))]
    return resize_bicubic(np.ascontiguousarray(cropped), (height, width)), cropped
