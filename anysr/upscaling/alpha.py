"""Colours under transparency.

A transparent pixel's stored colour is arbitrary, often black, and an enlargement that looks at it
draws a fringe around what is visible. Colours are therefore weighted by alpha, the way they are
composited, and divided by it again: invisible ones are replaced by those of visible pixels nearby,
taken from ever coarser alpha-weighted averages. What is visible keeps its colour.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

# Below this alpha a stored colour is trusted less and less: at 1/255 8 bits of it mean nothing.
_TRUSTED_ALPHA = 1 / 16


def fill_hidden(colour_CHW: Tensor, alpha_1HW: Tensor) -> Tensor:
    """Colours with those of invisible pixels taken from visible ones around them.

    Args:
        colour_CHW: in [0, 1], not multiplied by alpha.
        alpha_1HW: in [0, 1].
    """
    if bool((alpha_1HW >= _TRUSTED_ALPHA).all()):
        return colour_CHW
    return _filled((colour_CHW * alpha_1HW)[None], alpha_1HW[None], colour_CHW[None])[0]


def _filled(premultiplied: Tensor, alpha: Tensor, own: Tensor) -> Tensor:
    """Push-pull: averages over 2 x 2 until one pixel is left, then back, each level filling the finer."""
    if alpha.shape[-1] == 1 and alpha.shape[-2] == 1:
        return own
    halved = [F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in (premultiplied, alpha)]
    average = halved[0] / halved[1].clamp_min(1e-6)
    coarse = _filled(halved[0], halved[1], average)
    around = F.interpolate(coarse, size=own.shape[-2:], mode="bilinear", align_corners=False)
    trust = (alpha / _TRUSTED_ALPHA).clamp(0, 1)
    return trust * own + (1 - trust) * around
