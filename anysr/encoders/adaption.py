"""ArbSR's scale-aware feature adaption, which sits between the groups of an encoder (2004.03791, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.encoders.tiles import Tile, even, sweep
from anysr.geometry import Pair, pair_tensor

NUM_EXPERTS = 4
_MASK_CHANNELS = 16
_ROUTING_HIDDEN = 64
# How far the mask looks, at least: 1 + 2 (1 + 1 + 1) + 1 pixels and one of its pairs; even, so that pairs stay pairs.
_HALO = 10


class ScaleAdaption(nn.Module):
    """Features plus, where a learned mask says so, a convolution whose kernel is mixed for the scale.

    The mask works at half the size. The release fails on odd sizes; here the last row or column is
    repeated to make them even and the mask is cut back, which changes nothing for even sizes.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.Sequential(*_conv_norm(channels, _MASK_CHANNELS), nn.ReLU(), nn.AvgPool2d(2))
        self.middle = nn.Sequential(
            *_conv_norm(_MASK_CHANNELS, _MASK_CHANNELS),
            nn.ReLU(),
            *_conv_norm(_MASK_CHANNELS, _MASK_CHANNELS),
            nn.ReLU(),
        )
        self.after = nn.Sequential(*_conv_norm(_MASK_CHANNELS, 1), nn.Sigmoid())
        # One kernel after the other, as five dimensions have no channels-last layout.
        self.experts = nn.Parameter(torch.empty(NUM_EXPERTS * channels, channels, 3, 3))
        for expert in self.experts.chunk(NUM_EXPERTS):
            nn.init.kaiming_uniform_(expert, a=5**0.5)
        self.routing = nn.Sequential(
            nn.Linear(2, _ROUTING_HIDDEN), nn.ReLU(), nn.Linear(_ROUTING_HIDDEN, NUM_EXPERTS), nn.Softmax(-1)
        )

    def forward(self, x_BCHW: Tensor, scale: Pair) -> Tensor:
        """Adapted features of the same shape, for the scale pair (s_h, s_w)."""
        weights_E = self.routing(1 / pair_tensor(scale, self.experts))
        experts = self.experts.unflatten(0, (NUM_EXPERTS, -1))
        kernel = torch.tensordot(weights_E.to(experts.dtype), experts, dims=1)
        return x_BCHW + self.mask(x_BCHW) * F.conv2d(x_BCHW, kernel, padding=1)

    def in_tiles(self, x_1Chw: Tensor, scale: Pair, tile: Tile) -> None:
        """The same in place, window by window."""
        sweep(x_1Chw, lambda x, _: self(x, scale), even(tile), _HALO)

    def mask(self, x_BCHW: Tensor) -> Tensor:
        """(B, 1, H, W) in (0, 1): where the features depend on the scale."""
        height, width = x_BCHW.shape[-2:]
        half = self.middle(self.before(_made_even(x_BCHW)))
        full = F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)
        return _cut(self.after(full), height, width)

    def macs(self, lr_size: tuple[int, int]) -> int:
        """Multiply-adds of one image of h x w, the mixing of the kernel included."""
        channels, hidden = self.experts.shape[1], _MASK_CHANNELS
        height, width = lr_size
        full = (height + height % 2) * (width + width % 2)
        mask = 9 * (full * hidden * (channels + 1) + full // 4 * 2 * hidden**2)
        mixing = self.experts.numel() + _ROUTING_HIDDEN * (2 + NUM_EXPERTS)
        return mask + mixing + height * width * 9 * channels**2


def _made_even(x_BCHW: Tensor) -> Tensor:
    """With the last row or column repeated where their number is odd."""
    height, width = x_BCHW.shape[-2:]
    if torch.compiler.is_exporting():  # for sizes odd and even
        for dim, n in ((2, height), (3, width)):
            x_BCHW = x_BCHW.index_select(dim, torch.arange(n + n % 2).clamp(max=n - 1))
        return x_BCHW
    return F.pad(x_BCHW, (0, width % 2, 0, height % 2), mode="replicate") if height % 2 or width % 2 else x_BCHW


def _cut(mask_B1HW: Tensor, height: int, width: int) -> Tensor:
    if torch.compiler.is_exporting():
        return mask_B1HW.index_select(2, torch.arange(height)).index_select(3, torch.arange(width))
    return mask_B1HW[..., :height, :width]


def _conv_norm(num_in: int, num_out: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(num_in, num_out, 3, padding=1), nn.BatchNorm2d(num_out)


def make_adaptions(channels: int, num_parts: int, every: int) -> nn.ModuleList:
    """One adaption after every ``every`` of an encoder's parts; none with 0."""
    return nn.ModuleList(ScaleAdaption(channels) for _ in range(num_parts // every if every else 0))


def adapt(
    x_BCHW: Tensor, scale: Pair, adaptions: Sequence[ScaleAdaption], part: int, every: int, tile: Tile | None = None
) -> Tensor:
    """The features behind one of an encoder's parts, adapted if an adaption follows it.

    Args:
        x_BCHW: features.
        scale: (s_h, s_w).
        adaptions: of :func:`make_adaptions`, as ``every``.
        part: counted from 1.
        every: an adaption follows every so many parts; 0 for none.
        tile: changes the features in place, window by window; None makes new ones.
    """
    if not every or part % every:
        return x_BCHW
    adaption = adaptions[part // every - 1]
    if tile is None:
        return adaption(x_BCHW, scale)
    adaption.in_tiles(x_BCHW, scale, tile)
    return x_BCHW
