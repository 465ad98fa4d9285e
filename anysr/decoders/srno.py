"""SRNO: a neural operator whose attention integrates over the whole image (2303.02584).

Evaluated in an exact, faster form. Galerkin attention is a product with one small matrix per head,
a mean over all queries; once it is known, attention and the projection after it are a single linear
layer, and queries are never formed. An image takes one pass over blocks of pixels per attention
layer to gather the means and one to answer, so the blocks do not show in the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.decoders.galerkin import Galerkin, Mix, Moments
from anysr.decoders.grid import CORNERS, Strip, block_pixels, blocks, strip_rows, strips, weighted_rows
from anysr.fast_linear import FastLinear
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
from anysr.slimmable import SlimConv2d, prefix

# Hidden states kept between passes instead of being computed again, in bytes.
KEPT_BYTES = 384 * 2**20


@dataclass(frozen=True)
class SrnoConfig:
    """SRNO's decoder; published: 2 attention layers of 16 heads of 16 channels.

    Attributes:
        hidden: width of the operator, narrowed by subnets in whole heads.
        head_channels: channels of a head.
        num_blocks: attention layers.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Literal["srno"] = "srno"
    hidden: int = 256
    head_channels: int = 16
    num_blocks: int = 2

    def __post_init__(self) -> None:
        if self.head_channels < 2 or self.num_blocks < 1:
            raise ValueError(
                "decoder.head_channels must be at least 2 and decoder.num_blocks at least 1, got "
                f"{self.head_channels} and {self.num_blocks}"
            )
        if self.hidden < 1 or self.hidden % self.head_channels:
            raise ValueError(
                f"decoder.hidden must be a multiple of decoder.head_channels ({self.head_channels}), got {self.hidden}"
            )

    @property
    def slim_channels(self) -> int:
        """The width that subnets take a fraction of."""
        return self.hidden

    def narrowed(self, width: int) -> SrnoConfig:
        """The configuration of the physically smaller decoder."""
        return replace(self, hidden=width)


class Srno(nn.Module):
    """Features and queries to RGB.

    Shapes: B images, D feature channels, K hidden channels, Q queries, h x w features, H x W grid.
    The input of ``conv00`` is [rel of 4 corners (8), weighted features of 4 corners (4 D), cell (2)].
    """

    def __init__(self, config: SrnoConfig, feat_channels: int) -> None:
        super().__init__()
        self.config = config
        self.feat_channels = feat_channels
        hidden = config.hidden
        self.conv00 = SlimConv2d(8 + 4 * feat_channels + 2, hidden, 1)
        blocks = [Galerkin(hidden, config.head_channels) for _ in range(config.num_blocks)]
        self.blocks = cast(list[Galerkin], nn.ModuleList(blocks))
        self.fc1 = SlimConv2d(hidden, hidden, 1)
        self.fc2 = SlimConv2d(hidden, 3, 1)

    def forward(self, feat_BDhw: Tensor, image_B3hw: Tensor, queries: Queries, width: int) -> Tensor:
        """RGB in the normalised range: (B, 3, H, W) for a grid, (B, Q, 3) for points.

        Args:
            feat_BDhw: the encoder's features.
            image_B3hw: the normalised input, whose bilinear enlargement is added.
            queries: where to answer, and how large a pixel is there; attention averages over them.
            width: hidden channels K, whole heads, at most ``config.hidden``.
        """
        assert width % self.config.head_channels == 0, f"{width} is not a whole number of heads"
        if isinstance(queries, PointQueries):
            rgb = self._decode_points(feat_BDhw, queries, width)
        elif torch.is_grad_enabled():
            points = queries.as_points(feat_BDhw.shape[0], feat_BDhw.device)
            rgb = self._decode_points(feat_BDhw, points, width).transpose(1, 2).unflatten(2, queries.size)
        else:
            rgb = torch.stack([self._decode_grid(feat_Dhw, queries, width) for feat_Dhw in feat_BDhw])
        return rgb + bilinear(image_B3hw, queries)

    def macs(self, lr_size: tuple[int, int], size: tuple[int, int], width: int) -> int:  # noqa: ARG002
        """Multiply-adds of one image, of the textbook form."""
        head = self.config.head_channels
        block = 5 * width**2 + 2 * width * head
        lift = (8 + 4 * self.feat_channels + 2) * width
        return size[0] * size[1] * (lift + self.config.num_blocks * block + width**2 + 3 * width)

    def executed_macs(self, lr_size: tuple[int, int], size: tuple[int, int], width: int) -> int:
        """Multiply-adds that this implementation spends on the same answer, hidden states kept."""
        block = 4 * width**2 + width * self.config.head_channels
        folding = self.config.num_blocks * (width**3 + width**2 * self.config.head_channels)
        passes = self.config.num_blocks + 1
        lift = lr_size[0] * lr_size[1] * 4 * self.feat_channels * width
        per_query = self.config.num_blocks * block + passes * 6 * width + width**2 + 3 * width
        return size[0] * size[1] * per_query + folding + passes * lift

    def _lift_parts(self, lr_size: tuple[int, int], cell: Pair, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first layer's columns: rel (K, 4, 2), features (K, 4, D), and the bias with the cell's share."""
        weight, bias = prefix(self.conv00, self.conv00.in_channels, width)
        rel, feat, cell_weight = weight.flatten(1).split([8, 4 * self.feat_channels, 2], dim=1)
        bias = bias + cell_weight @ weight.new_tensor((cell[0] * lr_size[0], cell[1] * lr_size[1]))
        return rel.unflatten(1, (4, 2)), feat.unflatten(1, (4, self.feat_channels)), bias

    def _decode_points(self, feat_BDhw: Tensor, queries: PointQueries, width: int) -> Tensor:
        x_BQK = self._lift_points(feat_BDhw, queries, width)
        for block in self.blocks:
            moments = block.moments(block.keys_values(x_BQK, width), width)
            x_BQK = block.mix(moments, width).apply_differentiably(x_BQK)
        hidden = F.gelu(F.linear(x_BQK, *_flat(self.fc1, width)))
        return F.linear(hidden, *_flat(self.fc2, width)).float()

    def _lift_points(self, feat_BDhw: Tensor, queries: PointQueries, width: int) -> Tensor:
        """(B, Q, K): the first layer on each query's weighted corner features."""
        batch, _, rows, cols = feat_BDhw.shape
        rel_weight, feat_weight, bias = self._lift_parts((rows, cols), queries.cell, width)
        table = feat_BDhw.permute(0, 2, 3, 1).reshape(-1, self.feat_channels)
        ys = axis_corners(queries.coord[..., 0], rows)
        xs = axis_corners(queries.coord[..., 1], cols)
        weights_22BQ = ensemble_weights(ys.rel, xs.rel).to(table.dtype)
        first_pixel_B1 = torch.arange(batch, device=table.device)[:, None] * (rows * cols)
        columns = []
        for cy, cx in CORNERS:
            index_BQ = first_pixel_B1 + ys.index[cy] * cols + xs.index[cx]
            corner = table.index_select(0, index_BQ.view(-1)).view(batch, -1, self.feat_channels)
            columns.append(corner * weights_22BQ[cy, cx, ..., None])
        rel = [axis for cy, cx in CORNERS for axis in (ys.rel[cy], xs.rel[cx])]
        columns.append(torch.stack(rel, dim=-1).to(table.dtype))
        weight = torch.cat([feat_weight.flatten(1), rel_weight.flatten(1)], dim=1)
        return F.linear(torch.cat(columns, dim=-1), weight, bias)

    def _decode_grid(self, feat_Dhw: Tensor, queries: GridQueries, width: int) -> Tensor:
        """One image, (3, H, W): a pass for each attention layer's means, then one for the answer."""
        dtype = feat_Dhw.dtype
        rgb_3HW = torch.empty(3, *queries.size, device=feat_Dhw.device)
        with torch.autocast(feat_Dhw.device.type, enabled=False):
            source = _HiddenStates(
                feat_Dhw.to(dtype), queries, self._lift_parts(feat_Dhw.shape[1:], queries.cell, width)
            )
            for block in self.blocks:
                keys_values = FastLinear(*(t.to(dtype) for t in block.keys_values_weight(width)))
                total = Moments.zero(1, width, self.config.head_channels, feat_Dhw.device)
                for _, _, x_QK in source:
                    total = total + block.moments(keys_values(x_QK)[None], width)
                source.then(block.mix(total, width).prepared(dtype))
            answer = [_fast(self.fc1, width, dtype, "gelu"), _fast(self.fc2, width, dtype, "none")]
            for r, c, x_QK in source:
                rgb = answer[1](answer[0](x_QK)).float().t()
                rgb_3HW[:, r, c] = rgb.view(3, r.stop - r.start, c.stop - c.start)
        return rgb_3HW


class _HiddenStates:
    """The hidden states of every pixel, block by block, as many times as asked.

    What fits in ``KEPT_BYTES`` is kept from the previous pass; the rest is computed again.
    """

    def __init__(self, feat_Dhw: Tensor, queries: GridQueries, parts: tuple[Tensor, Tensor, Tensor]) -> None:
        self.feat_Dhw, self.size = feat_Dhw, queries.size
        _, rows, self.cols = feat_Dhw.shape
        dtype, device = feat_Dhw.dtype, feat_Dhw.device
        self.ys = axis_corners(pixel_centres(queries.size[0], device), rows)
        self.xs = axis_corners(pixel_centres(queries.size[1], device), self.cols)
        rel_K42, feat_K4D, bias = parts
        rel_K222 = rel_K42.unflatten(1, (2, 2)).float()
        self.by_row_HK = (self.ys.rel.t() @ rel_K222[..., 0].sum(2).t() + bias).to(dtype)
        self.by_col_WK = (self.xs.rel.t() @ rel_K222[..., 1].sum(1).t()).to(dtype)
        weight = feat_K4D.transpose(0, 1).reshape(-1, feat_Dhw.shape[0]).to(dtype)
        self.project = FastLinear(weight, weight.new_zeros(weight.shape[0]))
        self.mixes: list[Mix] = []
        self.kept: dict[tuple[int, int], Tensor] = {}

    def then(self, mix: Mix) -> None:
        """Append an attention layer to what the next passes compute."""
        self.mixes.append(mix)

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """(rows, columns, states (Q, K)) of every block."""
        width = self.by_col_WK.shape[1]
        room = KEPT_BYTES
        for strip in strips(self.ys.index, strip_rows(4 * self.cols * width * self.by_col_WK.itemsize)):
            table: Tensor | None = None
            for r, c in blocks(strip, self.size[1], block_pixels(self.feat_Dhw)):
                x_QK = self.kept.pop((r.start, c.start), None)
                if x_QK is not None:
                    x_QK = self.mixes[-1](x_QK)
                else:
                    table = self._table(strip) if table is None else table
                    x_QK = self._lift(table, strip, r, c)
                    for mix in self.mixes:
                        x_QK = mix(x_QK)
                yield r, c, x_QK
                room -= x_QK.nbytes
                if self.mixes and room >= 0:
                    self.kept[r.start, c.start] = x_QK

    def _table(self, strip: Strip) -> Tensor:
        """Rows of K: 4 per LR pixel of the strip, one for each corner; one per image row; one per column."""
        feat = self.feat_Dhw[:, strip.first : strip.last].flatten(1).t().contiguous()
        projected = self.project(feat).view(-1, self.by_col_WK.shape[1])
        return torch.cat([projected, self.by_row_HK[strip.top : strip.bottom], self.by_col_WK])

    def _lift(self, table_NK: Tensor, strip: Strip, r: slice, c: slice) -> Tensor:
        """(Q, K): the first layer's output, the weighted sum of six rows of the table."""
        weights = ensemble_weights(self.ys.rel[:, r, None], self.xs.rel[:, None, c])
        size = weights.shape[2:]
        first_col = table_NK.shape[0] - self.size[1]
        first_row = first_col - (strip.bottom - strip.top)
        device = table_NK.device
        index = [
            ((self.ys.index[cy, r, None] - strip.first) * self.cols + self.xs.index[cx, c]) * 4 + i
            for i, (cy, cx) in enumerate(CORNERS)
        ]
        index.append((first_row - strip.top + torch.arange(r.start, r.stop, device=device)[:, None]).expand(size))
        index.append((first_col + torch.arange(c.start, c.stop, device=device)).expand(size))
        shares = [*weights.flatten(0, 1), weights.new_ones(size), weights.new_ones(size)]
        return weighted_rows(table_NK, torch.stack(index, -1).view(-1, 6), torch.stack(shares, -1).view(-1, 6))


def _flat(layer: SlimConv2d, width: int) -> tuple[Tensor, Tensor]:
    weight, bias = prefix(layer, width, min(width, layer.out_channels))
    return weight.flatten(1), bias


def _fast(layer: SlimConv2d, width: int, dtype: torch.dtype, activation: Literal["none", "gelu"]) -> FastLinear:
    weight, bias = _flat(layer, width)
    return FastLinear(weight.to(dtype), bias.to(dtype), activation)
