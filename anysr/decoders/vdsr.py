"""VDSR (1511.04587): twenty plain convolutions on the bicubically enlarged image, which learn the difference."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.decoders.fixed_scale import answer, by_image, in_strips, luma
from anysr.decoders.grid import Rows
from anysr.fields import set_typed
from anysr.geometry import GridQueries, Queries
from anysr.slimmable import SlimConv2d

# HR pixels a strip: large, since each strip is computed with as many more rows as there are layers.
_BLOCK_PIXELS = 1048576


@dataclass(frozen=True)
class VdsrConfig:
    """Published: 20 layers of 64 channels on the luma. One network serves every scale.

    Attributes:
        num_layers: convolutions.
        hidden: width between them, narrowed by subnets.
        colours: 1 works on the luma and leaves the colour differences bicubic, as published; 3 on RGB.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Literal["vdsr"] = "vdsr"
    num_layers: int = 20
    hidden: int = 64
    colours: Literal[1, 3] = 1

    def __post_init__(self) -> None:
        set_typed(self, "decoder")
        if self.num_layers < 2 or self.hidden < 1:
            raise ValueError(
                f"decoder.num_layers must be at least 2 and hidden at least 1, got {self.num_layers} and {self.hidden}"
            )

    @property
    def slim_channels(self) -> int:
        """The width that subnets take a fraction of."""
        return self.hidden

    def narrowed(self, width: int) -> VdsrConfig:
        """The configuration of the physically smaller network."""
        return replace(self, hidden=width)


class Vdsr(nn.Module):
    """The image to RGB at any scale."""

    def __init__(self, config: VdsrConfig, feat_channels: int) -> None:
        super().__init__()
        if feat_channels != 3:
            raise ValueError('decoder kind "vdsr" enlarges the image itself; set encoder kind "rgb"')
        self.config = config
        sizes = [config.colours] + [config.hidden] * (config.num_layers - 1) + [config.colours]
        layers = [SlimConv2d(a, b, 3) for a, b in itertools.pairwise(sizes)]
        self.layers = cast(list[SlimConv2d], nn.ModuleList(layers))

    def forward(self, feat_BDhw: Tensor, image_B3hw: Tensor, queries: Queries, width: int) -> Tensor:
        """RGB in the network's colour range: (B, 3, H, W) for a grid, (B, Q, 3) for points.

        Points are answered by the pixel that they lie in, from the whole image.
        """
        return answer(self._strips(image_B3hw, queries, width), queries)

    def rows(self, feat_BDhw: Tensor, image_B3hw: Tensor, queries: GridQueries, width: int) -> Iterator[Rows]:
        """The answer for a grid strip by strip."""
        return by_image(self._strips(image_B3hw, queries, width))

    def _strips(self, image_B3hw: Tensor, queries: Queries, width: int) -> Iterator[tuple[int, Tensor]]:
        enlarged = bicubic(image_B3hw, queries.size)
        rows = max(64, _BLOCK_PIXELS // queries.size[1])
        return in_strips(enlarged, lambda x: self._sharpened(x, width), 1, rows, self.config.num_layers)

    def macs(self, lr_size: tuple[int, int], size: tuple[int, int], width: int) -> int:
        """Multiply-adds of one image."""
        per_pixel = 2 * self.config.colours * width + (self.config.num_layers - 2) * width**2
        return size[0] * size[1] * 9 * per_pixel

    executed_macs = macs

    def _sharpened(self, enlarged_B3HW: Tensor, width: int) -> Tensor:
        given = luma(enlarged_B3HW) if self.config.colours == 1 else enlarged_B3HW
        # On the luma the one channel of difference goes to all three colours, which leaves Cb and Cr alone.
        return (enlarged_B3HW + self._difference(given.to(self.layers[0].weight.dtype), width)).float()

    def _difference(self, x_BCHW: Tensor, width: int) -> Tensor:
        for layer in self.layers[:-1]:
            x_BCHW = torch.relu(layer(x_BCHW, width))
        return self.layers[-1](x_BCHW)


def bicubic(image_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic enlargement with a = -1/2, as PIL and MATLAB do (torch's own default is -3/4)."""
    enlarged = F.interpolate(image_BCHW.float(), size=size, mode="bicubic", antialias=True)
    return enlarged.to(image_BCHW.dtype)
