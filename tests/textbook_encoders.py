"""RDN, RCAN and ArbSR's adaption written down plainly, on the weights of ours.

Narrow networks are written as what they mean: "own" columns are the full network with channels set
to zero, "prefix" columns a plain concatenation in front of a sliced weight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anysr.encoders import Edsr, Encoder, Rcan, Rdn
from tests.textbook import gate

Pair = tuple[float, float]


def encode(encoder: Encoder, image: Tensor, scale: Pair, width: int) -> Tensor:
    if isinstance(encoder, Rdn):
        return rdn(encoder, image, scale, width)
    if isinstance(encoder, Rcan):
        return rcan(encoder, image, scale, width)
    assert isinstance(encoder, Edsr)
    return edsr(encoder, image, scale, width)


def conv(layer, x: Tensor, num_out: int | None = None) -> Tensor:
    weight = layer.weight[:num_out, : x.shape[1]]
    return F.conv2d(x, weight, layer.bias[:num_out], padding=weight.shape[-1] // 2)


def rdn(encoder: Rdn, image: Tensor, scale: Pair, width: int) -> Tensor:
    shallow = conv(encoder.head, image)
    x, outputs = conv(encoder.head2, shallow), []
    block_of = rdb_own if encoder.config.columns == "own" else rdb_prefix
    for i, block in enumerate(encoder.blocks):
        x = adapted(encoder, i, block_of(block, x, scale, width), scale)
        outputs.append(x)
    return shallow + conv(encoder.tail, conv(encoder.fusion, torch.cat(outputs, 1)))


def rdb_prefix(block, x: Tensor, scale: Pair, width: int) -> Tensor:
    config = block.config
    parts = [x]
    for i, layer in enumerate(block.convs):
        narrow = i in (config.num_convs - 4, config.num_convs - 2)
        parts.append(torch.relu(conv(layer, torch.cat(parts, 1), width if narrow else config.growth)))
    dense = torch.cat(parts, 1)
    if block.gate is not None:
        start = config.channels + (config.num_convs - 2) * config.growth
        woven = dense[:, start:] * gate(block.gate, dense[:, start:].mean((2, 3)), scale)[:, :, None, None]
        dense = torch.cat([dense[:, :start], woven], 1)
    return x + conv(block.fusion, dense)


def rdb_own(block, x: Tensor, scale: Pair, width: int) -> Tensor:
    config = block.config
    keep = (torch.arange(config.growth, device=x.device) < width).float()[:, None, None]
    dense = x
    for i, layer in enumerate(block.convs):
        out = torch.relu(conv(layer, dense))
        dense = torch.cat([dense, out * keep if i in (config.num_convs - 4, config.num_convs - 2) else out], 1)
    if block.gate is not None:
        start = dense.shape[1] - 2 * config.growth
        woven = dense[:, start:] * gate(block.gate, dense[:, start:].mean((2, 3)), scale)[:, :, None, None]
        dense = torch.cat([dense[:, :start], woven], 1)
    return x + conv(block.fusion, dense)


def rcan(encoder: Rcan, image: Tensor, scale: Pair, width: int) -> Tensor:
    shallow = conv(encoder.head, image)
    x = shallow
    for i, group in enumerate(encoder.groups):
        deep = x
        for block in group.blocks:
            f = conv(block.conv1, deep, width)
            if block.gate is not None:
                f = f * gate(block.gate, f.mean((2, 3)), scale)[:, :, None, None]
            f = conv(block.conv2, torch.relu(f))
            pooled = F.adaptive_avg_pool2d(f, 1)
            attention = torch.sigmoid(conv(block.attention.excite, torch.relu(conv(block.attention.squeeze, pooled))))
            deep = deep + f * attention
        x = adapted(encoder, i, x + conv(group.tail, deep), scale)
    return shallow + conv(encoder.tail, x)


def edsr(encoder: Edsr, image: Tensor, scale: Pair, width: int) -> Tensor:
    shallow = conv(encoder.head, image)
    x = shallow
    for i, block in enumerate(encoder.blocks):
        f = conv(block.conv1, x, width)
        if block.gate is not None:
            f = f * gate(block.gate, f.mean((2, 3)), scale)[:, :, None, None]
        x = adapted(encoder, i, x + conv(block.conv2, torch.relu(f)) * block.residual_scale, scale)
    return shallow + conv(encoder.tail, x)


def adapted(encoder: Encoder, part: int, x: Tensor, scale: Pair) -> Tensor:
    every = encoder.config.adapt_every
    if not every or (part + 1) % every:
        return x
    return adaption(encoder.adaptions[(part + 1) // every - 1], x, scale)


def adaption(module, x: Tensor, scale: Pair) -> Tensor:
    """ArbSR (2004.03791): x + mask(x) * conv(x; sum of experts); the mask of an even size, cut to ours."""
    height, width = x.shape[-2:]
    even = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
    m = F.avg_pool2d(torch.relu(norm(module.before[1], conv(module.before[0], even))), 2)
    m = torch.relu(norm(module.middle[1], conv(module.middle[0], m)))
    m = torch.relu(norm(module.middle[4], conv(module.middle[3], m)))
    m = F.interpolate(m, scale_factor=2, mode="bilinear", align_corners=False)
    mask = torch.sigmoid(norm(module.after[1], conv(module.after[0], m)))[..., :height, :width]
    first, second = module.routing[0], module.routing[2]
    inverse = torch.tensor([[1 / scale[0], 1 / scale[1]]], device=x.device)
    hidden = torch.relu(F.linear(inverse, first.weight, first.bias))
    routing = torch.softmax(F.linear(hidden, second.weight, second.bias), 1)
    experts = module.experts.unflatten(0, (routing.shape[1], -1))
    kernel = (routing @ experts.flatten(1)).view(experts.shape[1:])
    return x + mask * F.conv2d(x, kernel, padding=1)


def norm(layer, x: Tensor) -> Tensor:
    """Batch normalisation at rest."""
    scale = layer.weight / torch.sqrt(layer.running_var + layer.eps)
    return (x - layer.running_mean[:, None, None]) * scale[:, None, None] + layer.bias[:, None, None]
