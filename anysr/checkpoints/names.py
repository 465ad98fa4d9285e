"""What each of our parameters is called in the released files."""

from __future__ import annotations

import re
from collections.abc import Callable

from anysr.config import ModelConfig
from anysr.encoders import EdsrConfig, RcanConfig

_Rule = tuple[str, str | Callable[[re.Match[str]], str]]

_EDSR: tuple[_Rule, ...] = (
    (r"encoder\.head\.", "encoder.head.0."),
    (r"encoder\.blocks\.(\d+)\.conv1\.", r"encoder.body.\1.body.0."),
    (r"encoder\.blocks\.(\d+)\.conv2\.", r"encoder.body.\1.body.2."),
)
# The same with AnySR's blocks.
_EDSR_WOVEN: tuple[_Rule, ...] = (
    (r"encoder\.head\.", "encoder.head.0."),
    (r"encoder\.blocks\.(\d+)\.gate\.", r"encoder.body.\1."),
    (r"encoder\.blocks\.(\d+)\.", r"encoder.body.\1."),
)
_RDN: tuple[_Rule, ...] = (
    (r"encoder\.head\.", "encoder.SFENet1."),
    (r"encoder\.head2\.", "encoder.SFENet2."),
    (r"encoder\.blocks\.(\d+)\.convs\.(\d+)\.", r"encoder.RDBs.\1.convs.\2.conv.0."),
    (r"encoder\.blocks\.(\d+)\.fusion\.", r"encoder.RDBs.\1.LFF."),
    (r"encoder\.blocks\.(\d+)\.gate\.", r"encoder.RDBs.\1."),
    (r"encoder\.fusion\.", "encoder.GFF.0."),
    (r"encoder\.tail\.", "encoder.GFF.1."),
)
_RCAN: tuple[_Rule, ...] = (
    (r"encoder\.head\.", "encoder.head.0."),
    (r"encoder\.groups\.(\d+)\.blocks\.(\d+)\.conv1\.", r"encoder.body.\1.body.\2.body.0."),
    (r"encoder\.groups\.(\d+)\.blocks\.(\d+)\.conv2\.", r"encoder.body.\1.body.\2.body.2."),
    (r"encoder\.groups\.(\d+)\.blocks\.(\d+)\.attention\.squeeze\.", r"encoder.body.\1.body.\2.body.3.conv_du.0."),
    (r"encoder\.groups\.(\d+)\.blocks\.(\d+)\.attention\.excite\.", r"encoder.body.\1.body.\2.body.3.conv_du.2."),
)
# Layers alternate with activations, which take a number too.
_IMNET: tuple[_Rule, ...] = ((r"decoder\.layers\.(\d+)\.", lambda m: f"imnet.layers.{2 * int(m[1])}."),)
_SRNO: tuple[_Rule, ...] = ((r"decoder\.blocks\.(\d+)\.", r"conv\1."), (r"decoder\.", ""))
# Positions in the released mask's nn.Sequential.
_MASK = {"before.0": 0, "before.1": 1, "middle.0": 4, "middle.1": 5, "middle.3": 7, "middle.4": 8}
_MASK |= {"after.0": 11, "after.1": 12}
_ARBSR: tuple[_Rule, ...] = (
    (r"encoder\.adaptions\.(\d+)\.((?:before|middle|after)\.\d)\.", lambda m: f"sa_adapt.{m[1]}.mask.{_MASK[m[2]]}."),
    (r"encoder\.adaptions\.(\d+)\.experts", r"sa_adapt.\1.adapt.weight_pool"),
    (r"encoder\.adaptions\.(\d+)\.routing\.", r"sa_adapt.\1.adapt.routing."),
    (r"decoder\.body(\d)\.", r"sa_upsample.body.\1."),
    (r"decoder\.routing\.", "sa_upsample.routing.0."),
    (r"decoder\.offset\.", "sa_upsample.offset."),
    (r"decoder\.(compress|expand)", r"sa_upsample.weight_\1"),
    (r"decoder\.tail\.", "tail.1."),
)
_DECODER_RULES = {"LIIF": _IMNET, "Meta-SR": _IMNET, "SRNO": _SRNO, "ArbSR": _ARBSR}


def released_name(name: str, family: str, config: ModelConfig) -> str:
    """The released name of one of our parameters.

    Args:
        name: ours, from ``state_dict``.
        family: of the decoder.
        config: of the network; the last convolutions are numbered behind the blocks.
    """
    for pattern, replacement in (*_DECODER_RULES[family], *_encoder_rules(config)):
        renamed, hits = re.subn("^" + pattern, replacement, name)
        if hits:
            name = renamed
            break
    return name.removeprefix("encoder.") if family == "ArbSR" else name


def _encoder_rules(config: ModelConfig) -> tuple[_Rule, ...]:
    encoder = config.encoder
    if isinstance(encoder, RcanConfig):
        last = (r"encoder\.tail\.", f"encoder.body.{encoder.num_groups}.")
        return (*_RCAN, last, (r"encoder\.groups\.(\d+)\.tail\.", rf"encoder.body.\1.body.{encoder.num_blocks}."))
    if isinstance(encoder, EdsrConfig):
        last = (r"encoder\.tail\.", f"encoder.body.{encoder.num_blocks}.")
        return (*(_EDSR if config.interweave is None else _EDSR_WOVEN), last)
    return _RDN
