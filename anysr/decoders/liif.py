"""LIIF: a pixel is an MLP of its nearest features and its place among them (2012.09161).

Evaluated in an exact, faster form. The first layer is linear in [unfolded features, rel, cell], so
its share of the features and of the cell is computed once per LR pixel (one 3x3 convolution) and
only the two-column share of the relative coordinate remains per query and corner.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.geometry import (
    GridQueries,
    Pair,
    PointQueries,
    Queries,
    axis_corners,
    bilinear,
    ensemble_weights,
    pixel_centres,
)
from anysr.slimmable import SlimLinear, prefix

# Queries per block: activations of a block stay in a core's cache, and memory stays bounded.
BLOCK_QUERIES = 4096


@dataclass(frozen=True)
class LiifConfig:
    """LIIF's decoder; published: 4 hidden layers of 256 and no skip.

    Attributes:
        hidden: width of the hidden layers, narrowed by subnets.
        num_layers: hidden layers.
        skip: "bilinear" adds the bilinearly enlarged input, so that the network learns a residual.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Literal["liif"] = "liif"
    hidden: int = 256
    num_layers: int = 4
    skip: Literal["none", "bilinear"] = "none"

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.num_layers < 1:
            raise ValueError(
                f"decoder.hidden and decoder.num_layers must be at least 1, got {self.hidden} and {self.num_layers}"
            )

    @property
    def slim_channels(self) -> int:
        """The width that subnets take a fraction of."""
        return self.hidden

    def narrowed(self, width: int) -> LiifConfig:
        """The configuration of the physically smaller decoder."""
        return replace(self, hidden=width)


class Liif(nn.Module):
    """Features and queries to RGB.

    Shapes: B images, D feature channels, K hidden units, Q queries, h x w features, H x W grid.
    """

    def __init__(self, config: LiifConfig, feat_channels: int) -> None:
        super().__init__()
        self.config = config
        self.feat_channels = feat_channels
        sizes = [9 * feat_channels + 4] + [config.hidden] * config.num_layers
        layers = [SlimLinear(a, b) for a, b in zip(sizes, [*sizes[1:], 3], strict=True)]
        self.layers = cast(list[SlimLinear], nn.ModuleList(layers))
        if config.skip != "none":  # start as the interpolation that the network corrects
            nn.init.zeros_(layers[-1].weight)
            nn.init.zeros_(layers[-1].bias)

    def forward(self, feat_BDhw: Tensor, image_B3hw: Tensor, queries: Queries, width: int) -> Tensor:
        """RGB in the normalised range: (B, 3, H, W) for a grid, (B, Q, 3) for points.

        Args:
            feat_BDhw: the encoder's features.
            image_B3hw: the normalised input, read only by ``skip``.
            queries: where to answer, and how large a pixel is there.
            width: hidden units K, at most ``config.hidden``.
        """
        lr_size = feat_BDhw.shape[-2:]
        rel_cell = (queries.cell[0] * lr_size[0], queries.cell[1] * lr_size[1])
        projected_BhwK = self._project(feat_BDhw, rel_cell, width)
        if isinstance(queries, GridQueries):
            rgb = self._decode_grid(projected_BhwK, queries)
        else:
            rgb = self._decode_points(projected_BhwK, queries)
        return rgb if self.config.skip == "none" else rgb + bilinear(image_B3hw, queries)

    def macs(self, lr_size: tuple[int, int], size: tuple[int, int], width: int) -> int:
        """Multiply-adds of one image, of the textbook form (the MLP on every query and corner)."""
        per_query = (9 * self.feat_channels + 4 + 3) * width + (self.config.num_layers - 1) * width**2
        return 4 * size[0] * size[1] * per_query

    def executed_macs(self, lr_size: tuple[int, int], size: tuple[int, int], width: int) -> int:
        """Multiply-adds that this implementation spends on the same grid; element-wise work is not counted."""
        per_query = 3 * width + (self.config.num_layers - 1) * width**2
        return 4 * size[0] * size[1] * per_query + lr_size[0] * lr_size[1] * 9 * self.feat_channels * width

    def _project(self, feat_BDhw: Tensor, rel_cell: Pair, width: int) -> Tensor:
        """The first layer's share of features, cell and bias: once per LR pixel, channels last."""
        num_unfolded = 9 * self.feat_channels
        weight, bias = prefix(self.layers[0], num_unfolded + 4, width)
        bias = bias + weight[:, num_unfolded + 2 :] @ weight.new_tensor(rel_cell)
        kernel = weight[:, :num_unfolded].reshape(width, self.feat_channels, 3, 3)
        return F.conv2d(feat_BDhw, kernel, bias, padding=1).permute(0, 2, 3, 1).contiguous()

    def _rel_weight(self, like: Tensor) -> Tensor:
        """(2, K): the first layer's columns for rel_y and rel_x."""
        first = 9 * self.feat_channels
        return self.layers[0].weight[: like.shape[-1], first : first + 2].t().to(like.dtype)

    def _tail(self, hidden_QK: Tensor) -> Tensor:
        """All layers after the first: (Q, K) activations to (Q, 3), float32."""
        width = hidden_QK.shape[-1]
        for layer in self.layers[1:-1]:
            hidden_QK = torch.relu_(layer(hidden_QK, width))
        return self.layers[-1](hidden_QK).float()

    def _decode_points(self, projected_BhwK: Tensor, queries: PointQueries) -> Tensor:
        batch, height, width, channels = projected_BhwK.shape
        ys = axis_corners(queries.coord[..., 0], height)
        xs = axis_corners(queries.coord[..., 1], width)
        weights_22BQ = ensemble_weights(ys.rel, xs.rel)
        first_pixel_B1 = torch.arange(batch, device=projected_BhwK.device)[:, None] * (height * width)
        table = projected_BhwK.view(-1, channels)
        rel_weight = self._rel_weight(table)
        rgb_BQ3 = torch.zeros((), device=table.device)
        for cy, cx in CORNERS:
            index_BQ = first_pixel_B1 + ys.index[cy] * width + xs.index[cx]
            rel = torch.stack([ys.rel[cy], xs.rel[cx]], dim=-1).view(-1, 2).to(table.dtype)
            hidden = torch.relu_(table.index_select(0, index_BQ.view(-1)) + rel @ rel_weight)
            rgb_BQ3 = rgb_BQ3 + self._tail(hidden).view(batch, -1, 3) * weights_22BQ[cy, cx, ..., None]
        return rgb_BQ3

    def _decode_grid(self, projected_BhwK: Tensor, queries: GridQueries) -> Tensor:
        """Grid indices and relative coordinates depend on the row or the column alone."""
        batch, height, width, channels = projected_BhwK.shape
        device = projected_BhwK.device
        ys = axis_corners(pixel_centres(queries.size[0], device), height)
        xs = axis_corners(pixel_centres(queries.size[1], device), width)
        rel_weight = self._rel_weight(projected_BhwK)
        rows_2HK = ys.rel.to(rel_weight.dtype)[..., None] * rel_weight[0]
        cols_2WK = xs.rel.to(rel_weight.dtype)[..., None] * rel_weight[1]
        rgb_B3HW = torch.empty(batch, 3, *queries.size, device=device)
        for b in range(batch):
            table = projected_BhwK[b].view(-1, channels)
            for r, c in blocks(queries.size, BLOCK_QUERIES):
                weights = ensemble_weights(ys.rel[:, r, None], xs.rel[:, None, c])
                block: Tensor | float = 0.0
                for cy, cx in CORNERS:
                    index = ys.index[cy, r, None] * width + xs.index[cx, c]
                    hidden = table.index_select(0, index.view(-1)).view(*index.shape, channels)
                    hidden = torch.relu_(hidden + rows_2HK[cy, r, None] + cols_2WK[cx, c])
                    rgb = self._tail(hidden.view(-1, channels)).view(*index.shape, 3)
                    block = block + rgb * weights[cy, cx, ..., None]
                assert isinstance(block, Tensor)
                rgb_B3HW[b, :, r, c] = block.permute(2, 0, 1)
        return rgb_B3HW


CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def blocks(size: tuple[int, int], max_pixels: int) -> Iterator[tuple[slice, slice]]:
    """Cut an H x W grid into (rows, columns) blocks of at most ``max_pixels`` pixels."""
    cols = min(size[1], max_pixels)
    rows = max(1, max_pixels // cols)
    for top in range(0, size[0], rows):
        for left in range(0, size[1], cols):
            yield slice(top, top + rows), slice(left, left + cols)
