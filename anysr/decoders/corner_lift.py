"""A linear layer on four weighted corner features, for a whole image without a product per pixel.

SRNO's first layer reads [rel of the corners, weighted features of the corners, cell]. The features'
share is projected once per LR pixel and corner, rel's depends on the row or on the column alone, so
each pixel is the weighted sum of six rows of a table. Whatever linear layer follows goes into the
table as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from anysr.decoders.grid import CORNERS, Strip, block_pixels, blocks, strip_rows, strips, weighted_rows
from anysr.fast_linear import FastLinear
from anysr.geometry import AxisCorners, axis_corners, ensemble_weights, pixel_centres


@dataclass(frozen=True)
class CornerGrid:
    """An H x W grid over h x w features: neighbours along each axis."""

    ys: AxisCorners
    xs: AxisCorners
    lr_size: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def over(cls, feat_Dhw: Tensor, size: tuple[int, int]) -> CornerGrid:
        """The grid of ``size`` over these features."""
        lr_size = (feat_Dhw.shape[1], feat_Dhw.shape[2])
        axes = [axis_corners(pixel_centres(n, feat_Dhw.device), m) for n, m in zip(size, lr_size, strict=True)]
        return cls(axes[0], axes[1], lr_size, size)

    def lookup(self, strip: Strip, r: slice, c: slice) -> tuple[Tensor, Tensor]:
        """(Q, 6) rows of a strip's table that make each pixel of a block, and their weights."""
        weights = ensemble_weights(self.ys.rel[:, r, None], self.xs.rel[:, None, c])
        size, cols = weights.shape[2:], self.lr_size[1]
        first_row = (strip.last - strip.first) * cols * 4
        first_col = first_row + strip.bottom - strip.top
        rows_R1 = torch.arange(r.start, r.stop, device=weights.device)[:, None] + (first_row - strip.top)
        cols_C = torch.arange(c.start, c.stop, device=weights.device) + first_col
        index = [
            ((self.ys.index[cy, r, None] - strip.first) * cols + self.xs.index[cx, c]) * 4 + corner
            for corner, (cy, cx) in enumerate(CORNERS)
        ]
        index += [rows_R1.expand(size), cols_C.expand(size)]
        shares = [*weights.flatten(0, 1), weights.new_ones(size), weights.new_ones(size)]
        return torch.stack(index, -1).view(-1, 6), torch.stack(shares, -1).view(-1, 6)


@dataclass(frozen=True)
class CornerLift:
    """The layer's parts on a grid, float32: of each corner's features, each row, each column.

    Attributes:
        feat: (4, K, D) weight.
        row: (H, K) share of the row, with the bias.
        col: (W, K) share of the column.
    """

    feat: Tensor
    row: Tensor
    col: Tensor

    @classmethod
    def on(cls, grid: CornerGrid, rel_K8: Tensor, feat_K4D: Tensor, bias_K: Tensor) -> CornerLift:
        """The layer with these columns; ``rel_K8`` reads (y, x) of each corner, the cell is in the bias."""
        rel_K222 = rel_K8.float().reshape(-1, 2, 2, 2)
        row = grid.ys.rel.t() @ rel_K222[..., 0].sum(2).t() + bias_K
        return cls(feat_K4D.float().transpose(0, 1), row, grid.xs.rel.t() @ rel_K222[..., 1].sum(1).t())

    def then(self, weight: Tensor, bias: Tensor) -> CornerLift:
        """This layer followed by another."""
        weight = weight.float()
        return CornerLift(weight @ self.feat, self.row @ weight.t() + bias, self.col @ weight.t())

    def projection(self) -> tuple[Tensor, Tensor]:
        """The features' share, all corners at once, as a linear layer from D to 4 K."""
        weight = self.feat.flatten(0, 1)
        return weight, weight.new_zeros(len(weight))


class LiftedBlock:
    """One block of pixels, computed only if asked for."""

    def __init__(self, walk: LiftedBlocks, strip: Strip, rows: slice, cols: slice) -> None:
        self.walk, self.strip, self.rows, self.cols = walk, strip, rows, cols

    def lifted(self) -> list[Tensor]:
        """(Q, K) of each lift."""
        index, share = self.walk.grid.lookup(self.strip, self.rows, self.cols)
        return [weighted_rows(table, index, share) for table in self.walk.tables(self.strip)]


class LiftedBlocks:
    """One pass over the image: blocks in strips, with the tables of the strip at hand."""

    def __init__(self, grid: CornerGrid, feat_Dhw: Tensor, lifts: list[CornerLift]) -> None:
        self.grid, self.feat_Dhw, self.lifts = grid, feat_Dhw, lifts
        parts = [lift.projection() for lift in lifts]
        self._projections = [FastLinear(w.to(feat_Dhw.dtype), b.to(feat_Dhw.dtype)) for w, b in parts]
        self._at: tuple[Strip, list[Tensor]] | None = None

    def __iter__(self) -> Iterator[LiftedBlock]:
        channels = max(lift.col.shape[1] for lift in self.lifts)
        max_rows = strip_rows(self.feat_Dhw, 4 * self.grid.lr_size[1] * channels * self.feat_Dhw.itemsize)
        for strip in strips(self.grid.ys.index, max_rows):
            for rows, cols in blocks(strip, self.grid.size[1], block_pixels(self.feat_Dhw)):
                yield LiftedBlock(self, strip, rows, cols)

    def tables(self, strip: Strip) -> list[Tensor]:
        """For each lift rows of K: 4 per LR pixel of the strip (corners), one per image row, one per column."""
        if self._at is None or self._at[0] != strip:
            feat = self.feat_Dhw[:, strip.first : strip.last].permute(1, 2, 0).reshape(-1, len(self.feat_Dhw))
            # Room behind the pixels' rows for those of image rows and columns, without copying the table.
            room = -(-(strip.bottom - strip.top + self.grid.size[1]) // len(CORNERS))
            feat = F.pad(feat, (0, 0, 0, room))
            parts = zip(self.lifts, self._projections, strict=True)
            self._at = strip, [_table(lift, project(feat), room, strip) for lift, project in parts]
        return self._at[1]


def _table(lift: CornerLift, projected: Tensor, room: int, strip: Strip) -> Tensor:
    table = projected.view(-1, lift.col.shape[1])
    first_row = len(table) - room * len(CORNERS)
    first_col = first_row + strip.bottom - strip.top
    table[first_row:first_col] = lift.row[strip.top : strip.bottom]
    table[first_col : first_col + len(lift.col)] = lift.col
    return table
