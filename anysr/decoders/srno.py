"""SRNO: a neural operator whose attention integrates over the whole image (2303.02584).

Evaluated in an exact, faster form. Galerkin attention is a product with one small matrix per head,
a mean over all queries; once it is known, attention and the projection after it are a single linear
layer, and queries are never formed. An image takes one pass over blocks of pixels per attention
layer to gather the means and one to answer, so the blocks do not show in the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.decoders.corner_lift import CornerGrid, CornerLift, LiftedBlock, LiftedBlocks
from anysr.decoders.galerkin import Galerkin, Moments, PreparedMix
from anysr.decoders.grid import CORNERS, Rows, assemble, block_pixels
from anysr.decoders.srno_fused import FUSED_HEAD, KEPT_BYTES, FusedSrno
from anysr.fast_linear import FastLinear
from anysr.fields import set_typed
from anysr.geometry import (
    GridQueries,
    PointQueries,
    Queries,
    axis_corners,
    bilinear,
    bilinear_rows,
    ensemble_weights,
    lr_cell,
)
from anysr.native.fused import parts_for
from anysr.slimmable import SlimConv2d, prefix


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
        set_typed(self, "decoder")
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
        """RGB in the normalised range, float32: (B, 3, H, W) for a grid, (B, Q, 3) for points.

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
            rgb = queries.as_image(self._decode_points(feat_BDhw, points, width))
        else:
            rows = self.rows(feat_BDhw, image_B3hw, queries, width)
            return assemble(rows, len(feat_BDhw), queries.size, feat_BDhw.device)
        return rgb + bilinear(image_B3hw, queries).float()

    def macs(self, lr_size: tuple[int, int], size: tuple[int, int], width: int) -> int:
        """Multiply-adds of one image, of the textbook form."""
        head = self.config.head_channels
        block = 5 * width**2 + 2 * width * head
        lift = (8 + 4 * self.feat_channels + 2) * width
        return size[0] * size[1] * (lift + self.config.num_blocks * block + width**2 + 3 * width)

    def executed_macs(self, lr_size: tuple[int, int], size: tuple[int, int], width: int) -> int:
        """Multiply-adds that this implementation spends on the same answer, hidden states kept."""
        block = 4 * width**2 + width * self.config.head_channels
        # Keys, values and one of two layers of the first block are looked up; so is the first layer.
        per_query = self.config.num_blocks * block - 3 * width**2 + 4 * 6 * width + width**2 + 3 * width
        per_lr_pixel = 4 * 4 * self.feat_channels * width
        folding = self.config.num_blocks * (width**3 + width**2 * self.config.head_channels)
        return size[0] * size[1] * per_query + lr_size[0] * lr_size[1] * per_lr_pixel + folding

    def _lift_parts(self, cell_2: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first layer's columns: rel (K, 8), features (K, 4, D), and the bias with the share of ``lr_cell``."""
        weight, bias = prefix(self.conv00, self.conv00.in_channels, width)
        rel, feat, cell_weight = torch.split(weight.flatten(1), [8, 4 * self.feat_channels, 2], dim=1)
        bias = bias + cell_weight @ cell_2.to(weight)
        return rel, feat.reshape(width, 4, self.feat_channels), bias

    def _decode_points(self, feat_BDhw: Tensor, queries: PointQueries, width: int) -> Tensor:
        x_BQK = self._lift_points(feat_BDhw, queries, width)
        for block in self.blocks:
            moments = block.moments(block.keys_values(x_BQK, width), width)
            x_BQK = block.mix(moments, width)(x_BQK)
        hidden = F.gelu(F.linear(x_BQK, *_flat(self.fc1, width, width)))
        return F.linear(hidden, *_flat(self.fc2, width, 3)).float()

    def _lift_points(self, feat_BDhw: Tensor, queries: PointQueries, width: int) -> Tensor:
        """(B, Q, K): the first layer on each query's weighted corner features."""
        batch, _, rows, cols = feat_BDhw.shape
        rel_weight, feat_weight, bias = self._lift_parts(lr_cell(queries, feat_BDhw), width)
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
        weight = torch.cat([feat_weight.flatten(1), rel_weight], dim=1)
        return F.linear(torch.cat(columns, dim=-1), weight, bias)

    def rows(self, feat_BDhw: Tensor, image_B3hw: Tensor, queries: GridQueries, width: int) -> Iterator[Rows]:
        """The answer for a grid strip by strip, without gradients.

        For each image a pass for each attention layer's means, then one for the answer.
        """
        for b, feat_Dhw in enumerate(feat_BDhw):
            for top, rgb_3RW in self._image_rows(feat_Dhw, queries, width):
                skip = bilinear_rows(image_B3hw[b, None], queries.size, top, top + rgb_3RW.shape[1])
                yield Rows(b, top, rgb_3RW.add_(skip[0]))

    def _image_rows(self, feat_Dhw: Tensor, queries: GridQueries, width: int) -> Iterator[tuple[int, Tensor]]:
        parts = parts_for(feat_Dhw) if self.config.head_channels == FUSED_HEAD else None
        with torch.autocast(feat_Dhw.device.type, enabled=False):
            grid = CornerGrid.over(feat_Dhw, queries.size)
            lift = CornerLift.on(grid, *self._lift_parts(lr_cell(queries, feat_Dhw), width))
        if parts is None:
            return self._plain_rows(_HiddenStates(grid, feat_Dhw, lift), width)
        return self._fused_rows(FusedSrno(grid, feat_Dhw, lift, parts), width)

    def _plain_rows(self, states: _HiddenStates, width: int) -> Iterator[tuple[int, Tensor]]:
        """Block by block through torch's operators."""
        feat_Dhw = states.feat_Dhw
        dtype = feat_Dhw.dtype
        with torch.autocast(feat_Dhw.device.type, enabled=False):
            for block in self.blocks:
                total = Moments.zero(1, width, self.config.head_channels, feat_Dhw.device)
                for centred_Q2K in states.through(*block.keys_values_weight(width)):
                    total = total + block.moments(centred_Q2K[None], width)
                states.mixes.append(block.mix(total, width).prepared(dtype))
            (w1, b1), (w2, b2) = _flat(self.fc1, width, width), _flat(self.fc2, width, 3)
            fc1, fc2 = FastLinear(w1.to(dtype), b1.to(dtype), "gelu"), FastLinear(w2.to(dtype), b2.to(dtype))
        top, rgb_3RW = 0, torch.empty(0)
        for tile, x_QK in states.walk(keep=False):
            rows, cols = tile.rows, tile.cols
            if cols.start == 0:
                if rows.start:
                    yield top, rgb_3RW
                top = rows.start
                rgb_3RW = torch.empty(
                    3, rows.stop - top, states.grid.size[1], dtype=torch.float32, device=feat_Dhw.device
                )
            rgb_3RW[..., cols] = fc2(fc1(x_QK)).float().t().view(3, rgb_3RW.shape[1], -1)
        yield top, rgb_3RW

    def _fused_rows(self, states: FusedSrno, width: int) -> Iterator[tuple[int, Tensor]]:
        """The same passes, each in one compiled kernel."""
        with torch.autocast(states.feat_Dhw.device.type, enabled=False):
            for block in self.blocks:
                states.mixes.append(block.mix(states.moments(*block.keys_values_weight(width)), width))
            return states.answer([_flat(self.fc1, width, width), _flat(self.fc2, width, 3)])


class _HiddenStates:
    """The hidden states of every pixel, block by block, after the attention layers known so far.

    What fits in ``KEPT_BYTES`` is kept from the previous pass; the rest is computed again. What is
    linear in the first layer's input is looked up, not multiplied: the first keys and values, and
    the first attention layer up to its GELU.
    """

    def __init__(self, grid: CornerGrid, feat_Dhw: Tensor, lift: CornerLift) -> None:
        self.grid, self.feat_Dhw, self.lift = grid, feat_Dhw, lift
        self.mixes: list[PreparedMix] = []
        self.kept: dict[tuple[int, int], Tensor] = {}

    def through(self, weight: Tensor, bias: Tensor) -> Iterator[Tensor]:
        """A linear layer of the states, in pieces that stay in cache although they are wider."""
        if not self.mixes:
            for block in LiftedBlocks(self.grid, self.feat_Dhw, [self.lift.then(weight, bias)]):
                yield from self._pieces(block.lifted()[0])
        else:
            layer = FastLinear(weight.to(self.feat_Dhw.dtype), bias.to(self.feat_Dhw.dtype))
            for _, x_QK in self.walk(keep=True):
                yield from map(layer, self._pieces(x_QK))

    def _pieces(self, rows_QK: Tensor) -> Sequence[Tensor]:
        on_cpu = rows_QK.device.type == "cpu"
        return rows_QK.split(block_pixels(rows_QK) // rows_QK.itemsize) if on_cpu else (rows_QK,)

    def walk(self, keep: bool) -> Iterator[tuple[LiftedBlock, Tensor]]:
        """Every block with its states (Q, K), kept for one more pass as far as there is room."""
        room = KEPT_BYTES if keep else 0
        first, last = self.mixes[0], self.mixes[-1]
        for block in LiftedBlocks(self.grid, self.feat_Dhw, [self.lift, self.lift.then(first.weight, first.bias)]):
            key = block.rows.start, block.cols.start
            kept_QK = self.kept.pop(key, None)
            if kept_QK is not None:
                x_QK = last(kept_QK)
            else:
                x_QK, hidden_QK = block.lifted()
                x_QK = first.finish(x_QK, F.gelu(hidden_QK))
                for mix in self.mixes[1:]:
                    x_QK = mix(x_QK)
            yield block, x_QK
            room -= x_QK.nbytes
            if room >= 0:
                self.kept[key] = x_QK


def _flat(layer: SlimConv2d, num_in: int, num_out: int) -> tuple[Tensor, Tensor]:
    """A 1x1 convolution as a linear layer."""
    weight, bias = prefix(layer, num_in, num_out)
    return weight.flatten(1), bias
