"""Image to image against the textbook form: every encoder with every decoder, sizes and scales of all kinds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import anysr
from anysr.colour import recolour
from anysr.geometry import resolve_target
from anysr.zoo import MODELS
from tests import textbook, textbook_arbsr, textbook_encoders
from tests.unit.test_zoo import tiny

NAMES = [name for name, config in MODELS.items() if config.decoder.kind in ("liif", "srno", "metasr", "arbsr")]


def enlarge(model: anysr.AnySR, lr: Tensor, scale: tuple[float, float], subnet: int) -> Tensor:
    size = resolve_target((lr.shape[2], lr.shape[3]), scale, None).size
    chosen, colour = model.subnets[subnet], model.config.colour
    image = recolour(lr, colour.to_network, dim=1)
    feat = textbook_encoders.encode(model.encoder, image, scale, chosen.encoder_channels)
    if model.config.decoder.kind == "arbsr":
        rgb = textbook_arbsr.arbsr(model.decoder, feat, size, scale, chosen.decoder_channels)
    else:
        coord, cell = textbook.make_coord(size, len(lr)), (2 / size[0], 2 / size[1])
        rgb = textbook.decode(model.decoder, feat, image, coord, cell, chosen.decoder_channels)
        rgb = rgb.transpose(1, 2).reshape(len(lr), 3, *size)
    return recolour(rgb, colour.to_rgb, dim=1)


@pytest.mark.parametrize("name", NAMES)
def test_image_to_image(name: str) -> None:
    model = tiny(name)
    for size, scale in (((7, 9), (1.2, 1.2)), ((6, 5), (2.7, 1.3)), ((5, 8), (3.3, 3.3)), ((2, 3), (6.0, 6.0))):
        lr = torch.rand(2, 3, *size)
        for subnet in range(len(model.subnets)):
            with torch.no_grad():
                sr = model(lr, scale, subnet=subnet)
                assert (sr - enlarge(model, lr, scale, subnet)).abs().max() < 1e-4
                assert (sr[1:] - model(lr[1:], scale, subnet=subnet)).abs().max() < 1e-5
