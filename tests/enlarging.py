"""A network whose answer is known – bilinear enlargement – and the pictures to enlarge with it."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms

import anysr

SUBNETS = (
    {"scales": [1.0, 1.75], "encoder_width": 0.5, "decoder_width": 0.5},
    {"scales": [1.75, 2.55], "encoder_width": 0.75, "decoder_width": 0.75},
    {"scales": [2.55, 4.0]},
)


def bilinear_network() -> anysr.AnySR:
    """Every layer is there, but the last adds nothing to the bilinear skip: x1 returns its input."""
    torch.manual_seed(0)
    model = anysr.build(
        {
            "encoder": {"kind": "edsr", "num_blocks": 1, "channels": 16},
            "decoder": {"kind": "liif", "hidden": 16, "num_layers": 2, "skip": "bilinear"},
            "interweave": {"interval": 4},
            "width_multiple": 4,
            "subnets": SUBNETS,
        }
    )
    last = [module for module in model.decoder.modules() if isinstance(getattr(module, "weight", None), torch.Tensor)]
    with torch.no_grad():
        last[-1].weight.zero_()
        last[-1].bias.zero_()
    return model.eval()


def save_network(folder: Path) -> Path:
    path = folder / "model.safetensors"
    anysr.save(bilinear_network(), path)
    return path


def smooth(height: int, width: int, channels: int, peak: int = 255) -> np.ndarray:
    """Waves, different in each channel, over the whole range."""
    y, x = np.mgrid[:height, :width]
    planes = [0.5 + 0.5 * np.sin((0.2 + 0.1 * c) * x + (0.3 - 0.05 * c) * y + c) for c in range(channels)]
    return (np.stack(planes, axis=-1) * peak).round().astype(np.uint8 if peak == 255 else np.uint16)


@cache  # it holds the time of its making
def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(image: Image.Image, name: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, name, **options)
    return out.getvalue()
