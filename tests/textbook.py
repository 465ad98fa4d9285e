"""The published networks written down plainly, on the weights of ours: the reference for answers and gradients.

Whole image at once, one query at a time in meaning, nothing reordered. Written from the papers'
formulas, with the operators and the memory layout of the released code (features and hidden states
planar, one corner after the other, inputs concatenated as they are there), so that its time is theirs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from anysr.decoders import Decoder, Liif, MetaSr, Srno


def make_coord(size: tuple[int, int], batch: int, device: torch.device | None = None) -> Tensor:
    """(B, H * W, 2): every pixel centre, (y, x), row by row."""
    axes = [-1 + 1 / n + (2 / n) * torch.arange(n, device=device).float() for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, 2).expand(batch, -1, -1)


def decode(
    decoder: Decoder, feat: Tensor, image: Tensor, coord: Tensor, cell: tuple[float, float], width: int
) -> Tensor:
    """(B, Q, 3) of any of our decoders, without the normalisation."""
    if isinstance(decoder, Liif):
        return liif(decoder, feat, image, coord, cell, width)
    if isinstance(decoder, Srno):
        return srno(decoder, feat, image, coord, cell, width)
    assert isinstance(decoder, MetaSr)
    return metasr(decoder, feat, coord, cell, width)


def gate(interweave: torch.nn.Module, pooled: Tensor, scale: tuple[float, float]) -> Tensor:
    """(B, C): pooled values and scale pairs through the two layers."""
    interval, channels = interweave.config.interval, pooled.shape[1]
    sign = -1 if interweave.config.parity_sign and round(10 * max(scale)) % 2 else 1
    woven = []
    for i in range(channels):
        woven.append(pooled[:, i])
        if (i + 1) % interval == 0:
            woven += [torch.full_like(pooled[:, i], sign * s) for s in scale]
    x = torch.stack(woven, 1)
    hidden = torch.relu(F.linear(x, interweave.fc1.weight[:, : x.shape[1], 0, 0], interweave.fc1.bias))
    return torch.sigmoid(F.linear(hidden, interweave.fc2.weight[:channels, :, 0, 0], interweave.fc2.bias[:channels]))


def nearest(x: Tensor, coord: Tensor) -> Tensor:
    """(B, Q, C): nearest pixel of (B, C, h, w) at each coordinate."""
    return F.grid_sample(x, coord.flip(-1).unsqueeze(1), mode="nearest", align_corners=False)[:, :, 0].transpose(1, 2)


def bilinear(image: Tensor, coord: Tensor) -> Tensor:
    """(B, Q, C): bilinear interpolation, border repeated."""
    grid = coord.flip(-1).unsqueeze(1)
    sampled = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[:, :, 0].transpose(1, 2)


def corners(feat: Tensor, coord: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Moved coordinates, relative coordinates and area of each of the four neighbours of each query."""
    batch, _, h, w = feat.shape
    size = coord.new_tensor([h, w])
    centres = make_coord((h, w), batch, feat.device).reshape(batch, h, w, 2).permute(0, 3, 1, 2)
    for vy in (-1, 1):
        for vx in (-1, 1):
            moved = coord.clone()
            moved[..., 0] += vy / h + 1e-6
            moved[..., 1] += vx / w + 1e-6
            moved = moved.clamp(-1 + 1e-6, 1 - 1e-6)
            rel = (coord - nearest(centres, moved)) * size
            yield moved, rel, (rel[..., 0] * rel[..., 1]).abs() + 1e-9


def liif(decoder: Liif, feat: Tensor, image: Tensor, coord: Tensor, cell: tuple[float, float], width: int) -> Tensor:
    """LIIF (2012.09161): unfold, MLP on every query and corner, blend."""
    batch, channels, h, w = feat.shape
    unfolded = F.unfold(feat, 3, padding=1).view(batch, channels * 9, h, w)
    rel_cell = coord.new_tensor([cell[0] * h, cell[1] * w]).expand_as(coord)
    preds, areas = [], []
    for moved, rel, area in corners(unfolded, coord):
        x = torch.cat([nearest(unfolded, moved), rel], -1)
        x = torch.cat([x, rel_cell], -1)
        for layer in decoder.layers[:-1]:
            x = torch.relu(F.linear(x, layer.weight[:width, : x.shape[-1]], layer.bias[:width]))
        preds.append(F.linear(x, decoder.layers[-1].weight[:, :width], decoder.layers[-1].bias))
        areas.append(area)
    total = areas[0] + areas[1] + areas[2] + areas[3]
    rgb = torch.zeros((), device=feat.device)
    for pred, area in zip(preds, reversed(areas), strict=True):
        rgb = rgb + pred * (area / total).unsqueeze(-1)
    if decoder.config.skip == "none":
        return rgb
    scale = max(2 / (side * n) for side, n in zip(cell, feat.shape[-2:], strict=True))
    fade_in = decoder.config.fade_in
    return rgb * (min(1.0, (scale - 1) / fade_in) if fade_in else 1.0) + bilinear(image, coord)


def srno(decoder: Srno, feat: Tensor, image: Tensor, coord: Tensor, cell: tuple[float, float], width: int) -> Tensor:
    """SRNO (2303.02584): lift, Galerkin attention over all queries, two layers, bilinear skip."""
    _, _, h, w = feat.shape
    feats, rels, areas = [], [], []
    for moved, rel, area in corners(feat, coord):
        feats.append(F.grid_sample(feat, moved.flip(-1).unsqueeze(1), mode="nearest", align_corners=False))
        rels.append(rel.transpose(1, 2).unsqueeze(2))
        areas.append(area[:, None, None])
    total = torch.stack(areas).sum(0)
    weighted = [f * (area / total) for f, area in zip(feats, reversed(areas), strict=True)]
    rel_cell = coord.new_tensor([cell[0] * h, cell[1] * w]).view(1, 2, 1, 1).expand_as(rels[0])
    x = conv1x1(decoder.conv00, torch.cat([*rels, *weighted, rel_cell], 1), width)
    for block in decoder.blocks:
        x = galerkin(block, x, width)
    x = conv1x1(decoder.fc2, F.gelu(conv1x1(decoder.fc1, x, width)), 3)
    return x[:, :, 0].transpose(1, 2) + bilinear(image, coord)


def conv1x1(layer: torch.nn.Conv2d, x: Tensor, width: int) -> Tensor:
    return F.conv2d(x, layer.weight[:width, : x.shape[1]], layer.bias[:width])


def galerkin(block: torch.nn.Module, x: Tensor, width: int) -> Tensor:
    """Softmax-free attention: q (k^T v) / n per head, k and v normalised over the head's channels."""
    batch, _, rows, cols = x.shape
    count, head = rows * cols, block.head_channels
    qkv = conv1x1(block.qkv_proj, x, 3 * width).permute(0, 2, 3, 1)
    qkv = qkv.reshape(batch, count, width // head, 3 * head).transpose(1, 2)
    q, k, v = qkv.chunk(3, -1)
    k, v = head_norm(block.kln, k), head_norm(block.vln, v)
    attended = q @ (k.transpose(2, 3) @ v / count)
    attended = attended.transpose(1, 2).reshape(batch, rows, cols, width).permute(0, 3, 1, 2)
    hidden = F.gelu(conv1x1(block.o_proj1, attended + x, width))
    return conv1x1(block.o_proj2, hidden, width) + x


def head_norm(norm: torch.nn.Module, x: Tensor) -> Tensor:
    heads = x.shape[1]
    normed = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)
    return norm.weight[:heads] * normed + norm.bias[:heads]


def metasr(decoder: MetaSr, feat: Tensor, coord: Tensor, cell: tuple[float, float], width: int) -> Tensor:
    """Meta-SR (1903.00875) in LIIF's form: a filter predicted for every query, times its 3x3 neighbourhood."""
    batch, channels, h, w = feat.shape
    unfolded = F.unfold(feat, 3, padding=1).view(batch, channels * 9, h, w)
    half_lr, half_cell = coord.new_tensor([1 / h, 1 / w]), coord.new_tensor([cell[0] / 2, cell[1] / 2])
    edges = make_coord((h, w), batch, feat.device).reshape(batch, h, w, 2) - half_lr
    edge = coord - half_cell
    moved = (edge + 1e-6).clamp(-1 + 1e-6, 1 - 1e-6)
    rel = (edge - nearest(edges.permute(0, 3, 1, 2), moved)) * coord.new_tensor([h / 2, w / 2])
    x = torch.cat([rel, torch.full_like(rel[..., :1], cell[0] * h / 2)], -1)
    first, second = decoder.layers
    hidden = torch.relu(F.linear(x, first.weight[:width], first.bias[:width]))
    filters = F.linear(hidden, second.weight[:, :width], second.bias).view(-1, channels * 9, 3)
    picked = nearest(unfolded, moved).reshape(-1, 1, channels * 9)
    return (picked @ filters).view(batch, -1, 3)
