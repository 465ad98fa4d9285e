"""The compiled resize against Pillow's, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from anysr.native.library import resizer
from anysr.native.resize import resize_square
from pipeline.data.degrade import resize_bicubic

needs_compiler = pytest.mark.skipif(resizer() is None, reason="no compiled resize here: it needs a C++ compiler")


def pillows(pixels: np.ndarray, side: int) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


def crop(side: int, seed: int, black_and_white: bool) -> np.ndarray:
    """Of a larger photo. Extremes overshoot, and are clipped twice."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side + 3, side + 5, 3), dtype=np.uint8)
    return (pixels // 128 * 255 if black_and_white else pixels)[2:-1, 1:-4]


@needs_compiler
@pytest.mark.parametrize("black_and_white", [False, True])
@pytest.mark.parametrize("side", [1, 2, 12, 48, 64, 128])
def test_the_same_bytes(side: int, black_and_white: bool) -> None:
    """Crops of ×1 to ×6, whole and broken factors, and what grows."""
    sides = {1, 2, 5, *(round(side * scale) for scale in np.arange(10, 61, 3) / 10), *range(side, 4 * side, 17)}
    for large in sides:
        pixels = crop(large, large, black_and_white)
        np.testing.assert_array_equal(resize_square(pixels, side), pillows(pixels, side), f"{large} to {side}")


@needs_compiler
def test_any_order_in_memory() -> None:
    pixels = crop(50, 0, False)
    for turned in (pixels[::-1], pixels[:, ::-1], pixels.transpose(1, 0, 2), np.asfortranarray(pixels)):
        np.testing.assert_array_equal(resize_square(turned, 20), pillows(turned, 20))


@pytest.mark.parametrize("kernels", ["on", "off"])
def test_with_and_without_kernels(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYSR_KERNELS", kernels)
    pixels = crop(75, 1, False)
    np.testing.assert_array_equal(resize_bicubic(pixels, (30, 30)), pillows(pixels, 30))
