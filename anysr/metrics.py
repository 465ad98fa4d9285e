"""Image quality scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# ITU-R BT.601 luma of RGB in [0, 1], without the constant, which no difference sees.
_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)


def psnr_y(sr_3HW: Tensor, hr_3HW: Tensor, border: int) -> float:
    """PSNR in dB on the luma channel, floats, after cutting ``border`` pixels off each side.

    The protocol of LIIF's benchmark tables: RGB in [0, 1], clamped, not rounded to 8 bits, BT.601
    luma with its range of 16 ... 235, peak 1.

    Raises:
        ValueError: the shapes differ or nothing is left inside the border.
    """
    if sr_3HW.shape != hr_3HW.shape or sr_3HW.shape[0] != 3:
        raise ValueError(f"expected two (3, H, W) images of one size, got {tuple(sr_3HW.shape)}, {tuple(hr_3HW.shape)}")
    inside = (slice(None), *(slice(border, n - border) for n in sr_3HW.shape[1:]))
    difference = (sr_3HW.clamp(0, 1) - hr_3HW)[inside].double()
    if difference.numel() == 0:
        raise ValueError(f"a border of {border} leaves nothing of an image of {tuple(sr_3HW.shape[1:])}")
    luma = torch.einsum("chw,c->hw", difference, difference.new_tensor(_LUMA))
    mse = float(luma.square().mean())
    return math.inf if mse == 0 else -10 * math.log10(mse)
