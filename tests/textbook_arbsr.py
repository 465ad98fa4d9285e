"""ArbSR's upsampler (2004.03791) written down plainly: filters mixed and applied for every pixel of the whole image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anysr.decoders import ArbSr


def arbsr(decoder: ArbSr, feat: Tensor, size: tuple[int, int], scale: tuple[float, float], width: int) -> Tensor:
    """(B, 3, H, W) in the network's colour range."""
    batch, channels, h, w = feat.shape
    ys, xs = (torch.arange(n, device=feat.device).float() for n in size)
    ys, xs = (ys + 0.5) / scale[0], (xs + 0.5) / scale[1]
    frac_y = (ys - torch.floor(ys + 1e-3) - 0.5)[:, None].expand(size)
    frac_x = (xs - torch.floor(xs + 1e-3) - 0.5)[None].expand(size)
    inverse = [torch.full(size, 1 / s, device=feat.device) for s in (scale[1], scale[0])]
    x = torch.stack([*inverse, frac_y, frac_x])[None]
    for layer in (decoder.body0, decoder.body2):
        x = torch.relu(F.conv2d(x, layer.weight, layer.bias))
    offset = F.conv2d(x, decoder.offset.weight, decoder.offset.bias)[0]
    routing = torch.sigmoid(F.conv2d(x, decoder.routing.weight, decoder.routing.bias))[0].flatten(1).t()
    # Normalised as if corners were aligned, sampled as if not: the release's mismatch.
    grid_y = (ys[:, None] - 0.5 + offset[1]) * 2 / (h - 1) - 1
    grid_x = (xs[None] - 0.5 + offset[0]) * 2 / (w - 1) - 1
    grid = torch.stack([grid_x, grid_y], -1).expand(batch, -1, -1, -1)
    sampled = F.grid_sample(feat, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    columns = sampled.flatten(2).transpose(1, 2).unsqueeze(-1)
    compress = (routing @ decoder.compress[:, :width].flatten(1)).view(-1, width, channels)
    expand = (routing @ decoder.expand[..., :width].flatten(1)).view(-1, channels, width)
    filtered = (expand @ (compress @ columns)).squeeze(-1).transpose(1, 2).reshape(sampled.shape)
    return F.conv2d(sampled + filtered, decoder.tail.weight, decoder.tail.bias, padding=1)
