"""What one enlargement costs."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from anysr.config import checked_range
from anysr.geometry import checked_size, resolve_target
from anysr.model import AnySR, Subnet, SubnetChoice

_POINTS_PER_GROUP = 24


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
    """Cost of enlarging one image of ``lr_size`` (h, w) by ``scale`` with a subnet.

    Raises:
        TypeError: not a network.
        ValueError: a size, scale or subnet that there is not.
    """
    if not isinstance(model, torch.nn.Module):  # or what torch.compile made of it
        raise TypeError(f"cost is told of a network, as of anysr.build or anysr.load, got {reprlib.repr(model)}")
    lr_size = checked_size(lr_size, "lr_size must be (h, w)")
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


def typical_scale(model: AnySR, subnet: Subnet) -> float:
    """A round scale that a subnet serves, to tell its cost at: the network's factor, else a whole one if there is."""
    low, high = subnet.scales
    return model.config.fixed_factor or next(
        (s for s in (4.0, 3.0, 2.0, 1.5) if low <= s < high or s == high == 4.0), low
    )


def mean_macs(model: AnySR, lr_size: tuple[int, int] = (256, 256), scales: tuple[float, float] | None = None) -> float:
    """Multiply-adds of enlarging one image, each scale through its own subnet, mean over a range of scales.

    The mean is the integral over the range divided by its length, by the midpoint rule inside each group.

    Args:
        model: the network; one of a fixed factor has that scale alone.
        lr_size: (h, w).
        scales: (lowest, highest); None is what the model's groups cover.

    Raises:
        ValueError: a size that is none, or scales that are not finite with 1 <= lowest < highest.
    """
    lr_size = checked_size(lr_size, "lr_size must be (h, w)")
    factor = model.config.fixed_factor
    if factor is not None:
        return float(cost(model, lr_size, factor).macs)
    low, high = checked_range(
        scales or (model.subnets[0].scales[0], model.subnets[-1].scales[1]),
        "scales must be (lowest, highest), finite with 1 <= lowest < highest",
    )
    edges = [low, *(s.scales[0] for s in model.subnets[1:] if low < s.scales[0] < high), high]
    total = 0.0
    for start, end in itertools.pairwise(edges):
        subnet = model.subnet_for("auto", (start + end) / 2)
        encoder = model.encoder.macs(lr_size, subnet.encoder_channels)
        for i in range(_POINTS_PER_GROUP):
            target = resolve_target(lr_size, start + (end - start) * (i + 0.5) / _POINTS_PER_GROUP, None)
            decoder = model.decoder.macs(lr_size, target.size, subnet.decoder_channels)
            total += (encoder + decoder) * (end - start) / _POINTS_PER_GROUP
    return total / (high - low)
