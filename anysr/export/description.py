"""What an exported file says about itself, so that a runtime needs no other file."""

from __future__ import annotations

from typing import Any

from anysr.cost import cost, typical_scale
from anysr.decoders import ArbSrConfig, EcbsrConfig, PixelShuffleConfig, VdsrConfig
from anysr.model import AnySR

FORMAT, KEY = 1, "anysr"
_LR_SIZE = (256, 256)


def describe_subnet(model: AnySR, index: int, name: str) -> dict[str, Any]:
    """Plain values: which network, which of its subnets, and what a runtime has to know of it."""
    subnet, factor = model.subnets[index], model.config.fixed_factor
    scale = typical_scale(model, subnet)
    spent = cost(model, _LR_SIZE, scale, index)
    return {
        "format": FORMAT,
        "name": name,
        "subnet": index,
        "num_subnets": len(model.subnets),
        "scales": list(subnet.scales),
        "encoder": model.config.encoder.kind,
        "decoder": model.config.decoder.kind,
        "encoder_channels": subnet.encoder_channels,
        "decoder_channels": subnet.decoder_channels,
        "parameters": spent.params,
        "multiply_adds": {"lr_size": list(_LR_SIZE), "scale": scale, "count": spent.macs},
        "factor": factor,
        "reach": reach(model),
    }


def reach(model: AnySR) -> int | None:
    """LR rows on either side that a row of the answer reads of features and image; None: any of them."""
    decoder = model.config.decoder
    if isinstance(decoder, ArbSrConfig):
        return None  # it learns how far it looks
    if isinstance(decoder, VdsrConfig):
        return decoder.num_layers + 3
    if isinstance(decoder, EcbsrConfig):
        return decoder.num_blocks + 5
    return 4 if isinstance(decoder, PixelShuffleConfig) else 3
