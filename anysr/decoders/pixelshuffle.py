"""The pixel-shuffle head of EDSR (1707.02921) and RCAN (1807.02758): one factor only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from anysr.decoders.fixed_scale import answer, by_image, check_factor, in_strips
from anysr.decoders.grid import Rows
from anysr.fields import set_typed
from anysr.geometry import GridQueries, Queries
from anysr.slimmable import SlimConv2d

_BLOCK_PIXELS = 262144  # HR pixels a strip; bounds the memory


@dataclass(frozen=True)
class PixelShuffleConfig:
    """Convolution and shuffle, twice over for a factor of 4, then a convolution to RGB.

    Attributes:
        factor: the only enlargement it makes: 3 or a power of 2.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Literal["pixelshuffle"] = "pixelshuffle"
    factor: int = 2

    def __post_init__(self) -> None:
        set_typed(self, "decoder")
        if self.factor not in (2, 3, 4, 8):
            raise ValueError(f"decoder.factor must be 2, 3, 4 or 8, got {self.factor}")

    @property
    def slim_channels(self) -> int:
        """One: there is nothing to narrow."""
        return 1

    def narrowed(self, width: int) -> PixelShuffleConfig:
        """Itself."""
        return self

    @property
    def stages(self) -> tuple[int, ...]:
        """Factors of the shuffles, which multiply to ``factor``."""
        return (3,) if self.factor == 3 else (2,) * int(math.log2(self.factor))


class PixelShuffle(nn.Module):
    """Features to RGB at ``config.factor``."""

    def __init__(self, config: PixelShuffleConfig, feat_channels: int) -> None:
        super().__init__()
        self.config = config
        self.feat_channels = feat_channels
        self.stages = nn.ModuleList(SlimConv2d(feat_channels, feat_channels * s * s, 3) for s in config.stages)
        self.tail = SlimConv2d(feat_channels, 3, 3)

    def forward(self, feat_BDhw: Tensor, image_B3hw: Tensor, queries: Queries, width: int) -> Tensor:
        """RGB in the network's colour range: (B, 3, H, W) for a grid, (B, Q, 3) for points.

        Points are answered by the pixel that they lie in, from the whole image.

        Raises:
            ValueError: the queries are not those of an image ``config.factor`` times as large.
        """
        return answer(self._strips(feat_BDhw, queries), queries)

    def rows(self, feat_BDhw: Tensor, image_B3hw: Tensor, queries: GridQueries, width: int) -> Iterator[Rows]:
        """The answer for a grid strip by strip."""
        return by_image(self._strips(feat_BDhw, queries))

    def _strips(self, feat_BDhw: Tensor, queries: Queries) -> Iterator[tuple[int, Tensor]]:
        height, columns = feat_BDhw.shape[-2:]
        check_factor((height, columns), queries.size, self.config.factor)
        rows = max(8, _BLOCK_PIXELS // (columns * self.config.factor**2))
        # A row of output sees 1 + 1/2 + 1/4 rows of the features on either side.
        return in_strips(feat_BDhw, self._enlarge, self.config.factor, rows, halo=2)

    def macs(self, lr_size: tuple[int, int], size: tuple[int, int], width: int) -> int:
        """Multiply-adds of one image."""
        check_factor(lr_size, size, self.config.factor)
        pixels, total = lr_size[0] * lr_size[1], 0
        for stage in self.config.stages:
            total += pixels * 9 * (self.feat_channels * stage) ** 2
            pixels *= stage**2
        return total + pixels * 9 * 3 * self.feat_channels

    executed_macs = macs

    def _enlarge(self, feat_BDhw: Tensor) -> Tensor:
        for factor, conv in zip(self.config.stages, self.stages, strict=True):
            feat_BDhw = F.pixel_shuffle(conv(feat_BDhw), factor)
        return self.tail(feat_BDhw).float()
