"""Pillow's antialiased bicubic resize of square crops of 8 bits, to the byte and several times as fast."""

from __future__ import annotations

import math
from ctypes import Structure, byref, c_int32, c_int64, c_void_p
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from anysr.native.library import resizer

_FRACTION_BITS = 22


class _Axis(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("first", "count", "weight")),
        *((name, c_int32) for name in ("pixels", "answers", "taps")),
    ]


def resize_square(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8] | None:
    """(n, n, 3) to (side, side, 3), up or down, or None where the compiled form is not there.

    Args:
        pixels: best as they lie in a crop, rows apart and the pixels of a row side by side; else they are copied.
        side: of the answer.
    """
    library = resizer()
    if library is None:
        return None
    assert pixels.shape == (len(pixels), len(pixels), 3) and pixels.dtype == np.uint8
    if pixels.strides[1:] != (3, 1):
        pixels = np.ascontiguousarray(pixels)
    axis = _Weights.between(len(pixels), side)
    out = np.empty((side, side, 3), np.uint8)
    places = c_void_p(pixels.ctypes.data), c_int64(pixels.strides[0]), byref(axis.structure)
    library.anysr_resize_square(*places, c_void_p(out.ctypes.data))
    return out


class _Weights:
    """Which pixels make each answer along one axis, and their weights in fixed point."""

    def __init__(self, pixels: int, answers: int) -> None:
        stretch = pixels / answers
        reach = 2 * max(stretch, 1.0)
        taps = math.ceil(reach) * 2 + 1
        centre = (np.arange(answers) + 0.5) * stretch
        first = np.maximum((centre - reach + 0.5).astype(np.int32), 0)
        count = np.minimum((centre + reach + 0.5).astype(np.int32), pixels) - first
        tap = np.arange(taps)
        away = (tap + first[:, None] - centre[:, None] + 0.5) * (1 / max(stretch, 1.0))
        weight = np.where(tap < count[:, None], _bicubic(away), 0)
        # One after the other, as Pillow adds them: the order decides the last bit.
        whole = weight / np.add.accumulate(weight, axis=1)[:, -1:] * 2**_FRACTION_BITS
        # The structure holds addresses: what they point to has to live as long.
        self._kept = first, count, np.trunc(whole + np.copysign(0.5, whole)).astype(np.int32)
        self.structure = _Axis(*(t.ctypes.data for t in self._kept), pixels, answers, taps)

    @staticmethod
    @lru_cache(maxsize=512)
    def between(pixels: int, answers: int) -> _Weights:
        return _Weights(pixels, answers)


def _bicubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' kernel with a = -1/2, in Pillow's order of operations."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))
