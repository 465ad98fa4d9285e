"""MATLAB's ``imresize(image, [H W], "bicubic")``, on 8-bit images to the grey level.

Keys' cubic kernel with a = -0.5, widened by the factor when shrinking (antialiasing), edges mirrored
with the edge pixel repeated. One axis after the other, the one that shrinks most first, rows before
columns where both shrink alike. Pixels keep their type: 8-bit ones are rounded (halves up) and clipped
after each axis, floats never.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float64]
_Value = TypeVar("_Value", np.uint8, np.float64)


def matlab_bicubic(pixels: npt.NDArray[_Value], size: tuple[int, int]) -> npt.NDArray[_Value]:
    """Resize (H, W, C), uint8 or double, to ``size`` (height, width), up or down."""
    factors = [target / given for target, given in zip(size, pixels.shape, strict=False)]
    for axis in sorted((0, 1), key=lambda axis: factors[axis]):
        pixels = _resize_axis(pixels, axis, size[axis])
    return pixels


def _resize_axis(pixels: npt.NDArray[_Value], axis: int, length: int) -> npt.NDArray[_Value]:
    indices, weights = _taps(pixels.shape[axis], length)
    lines: _Floats = np.asarray(np.moveaxis(pixels, axis, 0), dtype=np.float64)
    total: _Floats = np.zeros((length, *lines.shape[1:]))
    for index, weight in zip(indices.T, weights.T, strict=True):
        total += weight[:, None, None] * lines[index]
    if pixels.dtype == np.uint8:
        total = np.clip(np.floor(total + 0.5), 0, 255)
    return np.ascontiguousarray(np.moveaxis(total, 0, axis), dtype=pixels.dtype)


def _taps(given: int, length: int) -> tuple[npt.NDArray[np.int64], _Floats]:
    """Which pixels an output pixel is made of, and how much of each: two (length, taps) arrays."""
    factor = length / given
    shrink = min(factor, 1.0)
    # Places count from 1, as MATLAB's do: the same floating-point numbers give the same roundings.
    centre = np.arange(1, length + 1) / factor + 0.5 * (1 - 1 / factor)
    width = 4 / shrink
    first = np.floor(centre - width / 2)
    place = first[:, None] + np.arange(math.ceil(width) + 2)
    weights = shrink * _cubic(shrink * (centre[:, None] - place))
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = np.mod(place.astype(np.int64) - 1, 2 * given)
    return np.where(mirrored < given, mirrored, 2 * given - 1 - mirrored), weights


def _cubic(x: _Floats) -> _Floats:
    """Keys' kernel (1981, eq. 15): 1.5|x|³ - 2.5|x|² + 1 to 1, -0.5|x|³ + 2.5|x|² - 4|x| + 2 to 2."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
