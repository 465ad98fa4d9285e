"""Image quality scores of one image against its original: PSNR and SSIM, in the published forms.

Sums run in double precision and in a fixed order, so that a score does not depend on thread counts.
"""

from __future__ import annotations

import math
import operator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Channel = Literal["y", "rgb"]

# ITU-R BT.601 luma of RGB in [0, 1]: from 16/255 (black) to 235/255 (white).
_LUMA, _BLACK = (65.481 / 255, 128.553 / 255, 24.966 / 255), 16 / 255
_WINDOW_PX, _SIGMA_PX = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
# How far an original may be outside [0, 1], as resampled ones are by rounding.
_OVERSHOOT = 0.01


def psnr(
    sr_3HW: Tensor,
    hr_3HW: Tensor,
    border: int | tuple[int, int],
    channel: Channel = "y",
    *,
    rounded: bool = False,
) -> float:
    """Peak signal-to-noise ratio in dB; the peak is 1 (255 on 8-bit pixels), also on luma.

    Args:
        sr_3HW: RGB of floating point, clamped to [0, 1] here.
        hr_3HW: the original, RGB in [0, 1].
        border: pixels cut off each side, or (top and bottom, left and right).
        channel: BT.601 luma with its range of 16 ... 235, or the mean square over all three colours.
        rounded: round RGB to 8 bits first; luma is never rounded.

    Returns:
        Decibels; infinity for equal images, NaN where a value is not finite.

    Raises:
        TypeError: not tensors.
        ValueError: whole numbers, an original outside [0, 1], the shapes differ, nothing is left inside the border, or
            there is no such channel.
    """
    sr, hr = scored_region(sr_3HW, hr_3HW, border, channel, rounded=rounded)
    mse = _mean((sr - hr).square())
    return math.inf if mse == 0 else -10 * math.log10(mse)


def ssim(
    sr_3HW: Tensor,
    hr_3HW: Tensor,
    border: int | tuple[int, int],
    channel: Channel = "y",
    *,
    rounded: bool = False,
) -> float:
    """Structural similarity (Wang et al., TIP 2004, eq. 13 and section III.C); arguments as in :func:`psnr`.

    Gaussian window of 11 x 11 and sigma 1.5, K1 = 0.01, K2 = 0.03, biased variances, only where the
    window lies inside the region; of RGB the mean over the colours.

    Raises:
        TypeError: not tensors.
        ValueError: as there, or less than one window is left inside the border.
    """
    sr, hr = scored_region(sr_3HW, hr_3HW, border, channel, rounded=rounded)
    if min(sr.shape[1:]) < _WINDOW_PX:
        raise ValueError(
            f"SSIM needs {_WINDOW_PX} x {_WINDOW_PX} pixels, the border leaves {sr.shape[1]} x {sr.shape[2]}"
        )
    mean_sr, mean_hr = _blur(sr), _blur(hr)
    var_sr, var_hr = _blur(sr.square()) - mean_sr.square(), _blur(hr.square()) - mean_hr.square()
    covariance = _blur(sr * hr) - mean_sr * mean_hr
    luminance = (2 * mean_sr * mean_hr + _C1) / (mean_sr.square() + mean_hr.square() + _C1)
    return _mean(luminance * (2 * covariance + _C2) / (var_sr + var_hr + _C2))


def scored_region(
    sr_3HW: Tensor, hr_3HW: Tensor, border: int | tuple[int, int], channel: Channel, *, rounded: bool
) -> tuple[Tensor, Tensor]:
    """What of two images a score sees: (C, H', W') in double precision, C = 1 for luma.

    Raises:
        TypeError: not tensors.
        ValueError: as of :func:`psnr`.
    """
    _check_floating(sr_3HW, "sr")
    _check_floating(hr_3HW, "hr")
    if sr_3HW.shape != hr_3HW.shape or sr_3HW.dim() != 3 or sr_3HW.shape[0] != 3:
        raise ValueError(f"expected two (3, H, W) images of one size, got {tuple(sr_3HW.shape)}, {tuple(hr_3HW.shape)}")
    if channel not in ("y", "rgb"):
        raise ValueError(f'channel must be "y" or "rgb", got {channel!r}')
    edges = _edges(border)
    size = (sr_3HW.shape[1], sr_3HW.shape[2])
    if min(edges) < 0 or any(2 * edge >= n for edge, n in zip(edges, size, strict=True)):
        raise ValueError(f"a border of {edges[0]} x {edges[1]} leaves nothing of an image of {size[0]} x {size[1]}")
    top, left = edges
    inside = (slice(None), slice(top, size[0] - top), slice(left, size[1] - left))
    sr, hr = sr_3HW.detach()[inside], hr_3HW.detach()[inside]
    _check_range(hr)
    return _as_seen(_without_infinities(sr), channel, rounded), _as_seen(hr, channel, rounded)


def _check_floating(image: Any, name: str) -> None:
    if not isinstance(image, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(image).__name__}; torch.from_numpy makes arrays one")
    if not image.is_floating_point():
        raise ValueError(
            f"{name} must be RGB of floating point in [0, 1], got {image.dtype}; divide 8-bit images by 255"
        )


def _check_range(hr: Tensor) -> None:
    low, high = (float(end) for end in hr.aminmax())
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        raise ValueError(
            f"hr must be RGB in [0, 1], got values from {low:g} to {high:g}; divide 8-bit images by 255, and bring "
            "[-1, 1] to [0, 1]"
        )


def _without_infinities(sr: Tensor) -> Tensor:
    """NaN instead, which the clamp keeps."""
    low, high = (float(end) for end in sr.aminmax())
    return sr.masked_fill(sr.isinf(), math.nan) if math.isinf(low) or math.isinf(high) else sr


def _edges(border: Any) -> tuple[int, int]:
    try:
        top, left = (operator.index(edge) for edge in (border if np.iterable(border) else (border, border)))
    except (TypeError, ValueError):
        raise ValueError(
            f"border must be a whole number of pixels or two, (top and bottom, left and right), got {border!r}"
        ) from None
    return top, left


def round_to_8_bits(image: Tensor) -> Tensor:
    """[0, 1] to the nearest of 256 levels, halves up, still in [0, 1]."""
    return (image * 255 + 0.5).floor() / 255


def _as_seen(image_3HW: Tensor, channel: Channel, rounded: bool) -> Tensor:
    image = image_3HW.double().clamp(0, 1)
    if rounded:
        image = round_to_8_bits(image)
    if channel == "rgb":
        return image
    red, green, blue = image
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue + _BLACK)[None]


def _blur(image_CHW: Tensor) -> Tensor:
    """Gaussian mean at every place where the whole window lies inside."""
    offsets = torch.arange(_WINDOW_PX, dtype=torch.float64) - _WINDOW_PX // 2
    weights = (-offsets.square() / (2 * _SIGMA_PX**2)).exp()
    taps: list[float] = (weights / weights.sum()).tolist()
    for axis in (1, 2):
        length = image_CHW.shape[axis] - _WINDOW_PX + 1
        blurred = image_CHW.narrow(axis, 0, length) * taps[0]
        for i, tap in enumerate(taps[1:], start=1):
            blurred.add_(image_CHW.narrow(axis, i, length), alpha=tap)
        image_CHW = blurred
    return image_CHW


def _mean(values: Tensor) -> float:
    # NumPy's sum takes one thread: torch's depends on how many there are.
    return float(values.cpu().numpy().mean())
