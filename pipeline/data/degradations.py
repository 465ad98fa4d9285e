"""Random faults of real photos, put into a crop before it is shrunk: blur, noise, JPEG."""

from __future__ import annotations

import os

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would call out at import

from albumentations.augmentations.blur.functional import create_gaussian_kernel_1d
from albumentations.augmentations.pixel.functional import add_noise, image_compression, separable_convolve

from pipeline.config import DegradationConfig
from pipeline.data.photos import Pixels


def degraded(hr: Pixels, config: DegradationConfig, rng: np.random.Generator) -> Pixels:
    """A copy of (H, W, 3) uint8 with the faults that ``rng`` draws.

    Each draws its chance and its strength whether it strikes or not, so that turning one on leaves
    the others as they were.
    """
    chance = rng.random(3)
    sigma, noise_sigma = rng.uniform(*config.blur_sigma), rng.uniform(*config.noise_sigma)
    quality = int(rng.integers(config.jpeg_quality[0], config.jpeg_quality[1] + 1))
    pixels = hr
    if chance[0] < config.blur:
        pixels = separable_convolve(pixels, kernel=create_gaussian_kernel_1d(sigma))
    if chance[1] < config.noise:
        pixels = add_noise(pixels, np.rint(rng.normal(0, noise_sigma, pixels.shape)).astype(np.int16))
    if chance[2] < config.jpeg:
        # OpenCV's encoder expects BGR; the order of channels decides what JPEG keeps of each.
        pixels = image_compression(np.ascontiguousarray(pixels[..., ::-1]), quality, ".jpg")[..., ::-1]
    return np.ascontiguousarray(pixels)
