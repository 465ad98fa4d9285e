"""What a released file holds, told from its parameters' names and shapes alone.

A key that is missing leaves the published size in its place; the comparison that follows lists it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from anysr.checkpoints.fit import Shape
from anysr.colour import div2k_colour
from anysr.config import PAPER_SUBNETS, ModelConfig
from anysr.decoders import ArbSrConfig, DecoderConfig, LiifConfig, MetaSrConfig, SrnoConfig
from anysr.encoders import EdsrConfig, EncoderConfig, RcanConfig, RdnConfig
from anysr.interweave import InterweaveConfig
from anysr.zoo import PLAIN_SUBNETS, RDN_SUBNETS

Shapes = Mapping[str, Shape]
FAMILIES = ("LIIF", "SRNO", "AnySR", "Meta-SR", "ArbSR")


def family_of(shapes: Shapes) -> str | None:
    """The decoder's family; AnySR is its decoder's with a woven encoder."""
    if any(name.startswith(("sa_upsample.", "sa_adapt.")) for name in shapes):
        return "ArbSR"
    if not any(name.startswith("encoder.") for name in shapes):
        return None
    if any(name.startswith(("conv00.", "conv0.", "conv1.")) for name in shapes):
        return "SRNO"
    if any(name.startswith("imnet.layers.") for name in shapes):
        # LIIF's network reads unfolded features, Meta-SR's the offset and the scale alone.
        return "Meta-SR" if _size(shapes, "imnet.layers.0.weight", 1, 0) == 3 else "LIIF"
    return None


def config_from_shapes(family: str, shapes: Shapes, spec: Mapping[str, Any]) -> ModelConfig:
    """The configuration that these weights belong to.

    Args:
        family: from :func:`family_of`.
        shapes: of the file's tensors.
        spec: the file's own description; only what weights cannot tell is read, and only if it is there.

    Raises:
        ValueError: sizes that no network has, or a network that is described to work in another way than ours.
    """
    if family == "ArbSR":
        encoder = _encoder({"encoder." + name: shape for name, shape in shapes.items()}, spec)
        decoder = _decoder(family, shapes)
        return ModelConfig(encoder, decoder, interweave=None, subnets=PLAIN_SUBNETS, colour=div2k_colour())
    encoder = _encoder(shapes, spec)
    if family == "LIIF" and not _below(spec, "args").get("local_ensemble", True):
        raise ValueError(
            "its description says local_ensemble: false, LIIF's ablation without blending the four nearest features, "
            "which is not supported"
        )
    interweave = _interweave(shapes)
    woven_subnets = RDN_SUBNETS if isinstance(encoder, RdnConfig) else PAPER_SUBNETS
    subnets = PLAIN_SUBNETS if interweave is None else woven_subnets
    return ModelConfig(encoder, _decoder(family, shapes), interweave=interweave, subnets=subnets)


def _decoder(family: str, shapes: Shapes) -> DecoderConfig:
    if family == "ArbSR":
        return ArbSrConfig(bottleneck=_size(shapes, "sa_upsample.weight_compress", 1, 8))
    if family == "SRNO":
        return SrnoConfig(
            hidden=_size(shapes, "conv00.weight", 0, 256),
            head_channels=_size(shapes, "conv0.kln.weight", 2, 16),
            num_blocks=max(1, _count(shapes, r"conv(\d+)\.qkv_proj\.")),
        )
    hidden = _size(shapes, "imnet.layers.0.weight", 0, 256)
    if family == "Meta-SR":
        return MetaSrConfig(hidden=hidden)
    return LiifConfig(hidden=hidden, num_layers=max(1, (_count(shapes, r"imnet\.layers\.(\d+)\.") - 1) // 2))


def _encoder(shapes: Shapes, spec: Mapping[str, Any]) -> EncoderConfig:
    if any(".RDBs." in name for name in shapes):
        num_blocks = max(1, _count(shapes, r"encoder\.RDBs\.(\d+)\."))
        return RdnConfig(
            num_blocks=num_blocks,
            num_convs=max(4, _count(shapes, r"encoder\.RDBs\.\d+\.convs\.(\d+)\.")),
            growth=_size(shapes, "encoder.RDBs.0.convs.0.conv.0.weight", 0, 64),
            channels=_size(shapes, "encoder.SFENet1.weight", 0, 64),
            adapt_every=_adapt_every(shapes, num_blocks),
        )
    channels = _size(shapes, "encoder.head.0.weight", 0, 64)
    if any(".conv_du." in name for name in shapes):
        num_groups = max(1, _count(shapes, r"encoder\.body\.(\d+)\.body\."))
        hidden = _size(shapes, "encoder.body.0.body.0.body.3.conv_du.0.weight", 0, 4)
        return RcanConfig(
            num_groups=num_groups,
            num_blocks=max(1, _count(shapes, r"encoder\.body\.\d+\.body\.(\d+)\.body\.")),
            channels=channels,
            reduction=max(1, channels // hidden),
            adapt_every=_adapt_every(shapes, num_groups),
        )
    num_blocks = max(1, _count(shapes, r"encoder\.body\.(\d+)\.(?:body|conv1|conv2|fc1|fc2)\."))
    scale, adapt_every = _residual_scale(channels, spec), _adapt_every(shapes, num_blocks)
    return EdsrConfig(num_blocks=num_blocks, channels=channels, residual_scale=scale, adapt_every=adapt_every)


def _interweave(shapes: Shapes) -> InterweaveConfig | None:
    """AnySR's gates; its release negates the pair at odd scales."""
    fc1 = [shape for name, shape in shapes.items() if re.fullmatch(r"encoder\..*\.fc1\.weight", name)]
    fc2 = [shape for name, shape in shapes.items() if re.fullmatch(r"encoder\..*\.fc2\.weight", name)]
    if not fc1 and not fc2:
        return None
    if not fc1 or not fc2 or len(fc1[0]) < 2 or not fc2[0]:
        return InterweaveConfig(parity_sign=True)
    channels = fc2[0][0]
    pairs = (fc1[0][1] - channels) // 2
    # Several intervals make as many pairs; the published one is meant wherever it does.
    published = InterweaveConfig().interval
    interval = published if pairs <= 0 or channels // published == pairs else max(1, channels // pairs)
    return InterweaveConfig(interval=interval, parity_sign=True)


def _residual_scale(channels: int, spec: Mapping[str, Any]) -> float:
    """EDSR's factor on each branch leaves no trace in the weights: its wide form has 0.1, the baseline 1."""
    given = _below(_below(_below(spec, "args"), "encoder_spec"), "args").get("res_scale")
    if isinstance(given, int | float):
        try:
            return float(given)
        except OverflowError:
            raise ValueError("its description's res_scale is a whole number beyond all floating-point ones") from None
    return 0.1 if channels >= 256 else 1.0


def _below(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The mapping at ``key``, empty if there is none."""
    found = values.get(key)
    return found if isinstance(found, Mapping) else {}


def _adapt_every(shapes: Shapes, num_parts: int) -> int:
    num_adaptions = _count(shapes, r"encoder\.sa_adapt\.(\d+)\.")
    return max(1, num_parts // num_adaptions) if num_adaptions else 0


def _size(shapes: Shapes, name: str, axis: int, published: int) -> int:
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) > axis and shape[axis] > 0 else published


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the highest number that the pattern captures; no higher than the number of names."""
    numbers = [int(match[1]) for match in (re.match(pattern, name) for name in shapes) if match]
    return min(max(numbers, default=-1) + 1, len(shapes))
