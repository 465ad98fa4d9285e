"""What one enlargement costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from anysr.geometry import resolve_target
from anysr.model import AnySR, SubnetChoice


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-adds of one image through one subnet.

    Multiply-adds are those of the published, textbook form of each network (the usual way to
    compare networks; one multiply-add is two FLOPs). Activations and interpolation are not counted.

    Attributes:
        encoder_params: weights of the encoder at this width.
        decoder_params: weights of the decoder at this width.
        encoder_macs: multiply-adds of the encoder.
        decoder_macs: multiply-adds of the decoder.
        executed_macs: multiply-adds of the whole network in the exact faster form that runs here.
    """

    encoder_params: int
    decoder_params: int
    encoder_macs: int
    decoder_macs: int
    executed_macs: int

    @property
    def params(self) -> int:
        """Weights of the whole network."""
        return self.encoder_params + self.decoder_params

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole network."""
        return self.encoder_macs + self.decoder_macs


def cost(
    model: AnySR,
    lr_size: tuple[int, int],
    scale: float | Sequence[float],
    subnet: SubnetChoice = "auto",
) -> Cost:
    """Cost of enlarging one image of ``lr_size`` (h, w) by ``scale`` with a subnet."""
    target = resolve_target(lr_size, scale, None)
    chosen = model.subnet_for(subnet, target.largest_scale)
    with torch.device("meta"):
        small = AnySR(model.extracted_config(chosen))
    encoder = model.encoder.macs(lr_size, chosen.encoder_channels)
    return Cost(
        encoder_params=sum(p.numel() for p in small.encoder.parameters()),
        decoder_params=sum(p.numel() for p in small.decoder.parameters()),
        encoder_macs=encoder,
        decoder_macs=model.decoder.macs(lr_size, target.size, chosen.decoder_channels),
        executed_macs=encoder + model.decoder.executed_macs(lr_size, target.size, chosen.decoder_channels),
    )
