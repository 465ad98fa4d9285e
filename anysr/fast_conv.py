"""3 x 3 convolutions as fast as the processor allows, for inference; torch's own elsewhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anysr.native.fused import conv3x3, parts_for

# Below, laying out the weights costs more than it brings.
_MIN_PIXELS, _MIN_CHANNELS = 4096, 16


def fast_conv3x3(
    x_BCHW: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    relu: bool = False,
    skip: Tensor | None = None,
    factor: float = 1.0,
) -> Tensor:
    """Skip + factor * relu(same-padded convolution), the ReLU and the skip as asked for; with gradients."""
    parts = _parts(x_BCHW, weight)
    if parts is not None:
        skip_BhwN = None if skip is None else _pixels(skip)
        return conv3x3(_pixels(x_BCHW), weight, bias, parts, relu, skip_BhwN, factor).permute(0, 3, 1, 2)
    y = F.conv2d(x_BCHW, weight, bias, padding=1)
    if relu:
        y = torch.relu_(y)
    if factor != 1:
        y = y * factor
    return y if skip is None else skip + y


def _parts(x_BCHW: Tensor, weight: Tensor) -> int | None:
    """The kernel's way to multiply; it pays where float32 goes through the tiles of AMX."""
    if torch.compiler.is_compiling() or x_BCHW.dtype != torch.float32:
        return None
    if x_BCHW.shape[2] * x_BCHW.shape[3] < _MIN_PIXELS:
        return None
    if x_BCHW.shape[1] < _MIN_CHANNELS or weight.dtype != torch.float32:
        return None
    return parts_for(x_BCHW) or None


def _pixels(x_BCHW: Tensor) -> Tensor:
    """(B, h, w, C), contiguous; no copy of an image in channels-last order."""
    return x_BCHW.permute(0, 2, 3, 1).contiguous()
