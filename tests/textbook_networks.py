"""Whole networks in their textbook form, image to image."""

from __future__ import annotations

from torch import Tensor

import anysr
from anysr.colour import recolour
from anysr.geometry import resolve_target
from tests import textbook, textbook_arbsr, textbook_encoders


def enlarge(model: anysr.AnySR, lr: Tensor, scale: tuple[float, float], subnet: int) -> Tensor:
    """(N, 3, H, W) of subnet number ``subnet``, whole image at once."""
    size = resolve_target((lr.shape[2], lr.shape[3]), scale, None).size
    chosen, colour = model.subnets[subnet], model.config.colour
    image = recolour(lr, colour.to_network, dim=1)
    feat = textbook_encoders.encode(model.encoder, image, scale, chosen.encoder_channels)
    rgb = decode(model, feat, image, size, scale, chosen.decoder_channels)
    return recolour(rgb, colour.to_rgb, dim=1)


def decode(
    model: anysr.AnySR, feat: Tensor, image: Tensor, size: tuple[int, int], scale: tuple[float, float], width: int
) -> Tensor:
    """(N, 3, H, W) in the network's colours."""
    if model.config.decoder.kind == "arbsr":
        return textbook_arbsr.arbsr(model.decoder, feat, size, scale, width)
    coord, cell = textbook.make_coord(size, len(feat), feat.device), (2 / size[0], 2 / size[1])
    rgb = textbook.decode(model.decoder, feat, image, coord, cell, width)
    return rgb.transpose(1, 2).reshape(len(feat), 3, *size)
