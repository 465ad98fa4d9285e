"""A linear layer on four weighted corner features, for a whole image without a product per pixel.

SRNO's first layer reads [rel of the corners, weighted features of the corners, cell]. The features'
share is projected once per LR pixel and corner, rel's depends on the row or on the column alone, so
each pixel is the weighted sum of six rows of a table. Whatever linear layer follows goes into the
table as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anysr.constants import constants
from anysr.decoders.grid import CORNERS, block_pixels, weighted_rows
from anysr.fast_linear import FastLinear, has_fast_mkl
from anysr.geometry import AxisCorners, axis_corners, ensemble_weights, pixel_centres
from anysr.native import gpu
from anysr.native.fused import ImageGrid

# What a tile may be where kernels of a GPU look it up: pixels, and bytes of a table and of all that is looked up.
_KERNEL_PIXELS, _KERNEL_BYTES = 2**18, 512 * 2**20


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
        row = grid.ys.rel.t() @ rel_K222[..., 0].sum(2).t() + bias_K.float()
        return cls(feat_K4D.float().transpose(0, 1), row, grid.xs.rel.t() @ rel_K222[..., 1].sum(1).t())

    def then(self, weight: Tensor, bias: Tensor) -> CornerLift:
        """This layer followed by another."""
        weight, bias = weight.float(), bias.float()
        return CornerLift(weight @ self.feat, self.row @ weight.t() + bias, self.col @ weight.t())

    def projection(self) -> tuple[Tensor, Tensor]:
        """The features' share, all corners at once, as a linear layer from D to 4 K."""
        weight = self.feat.flatten(0, 1)
        return weight, weight.new_zeros(len(weight))


@dataclass(frozen=True)
class LiftedBlock:
    """One tile of the image, computed only if asked for.

    Attributes:
        rows: of the image.
        cols: of the image.
    """

    walk: LiftedBlocks
    rows: slice
    cols: slice

    def lifted(self) -> list[Tensor]:
        """(Q, K) of each lift."""
        return self.walk.lifted(self.rows, self.cols)


class LiftedBlocks:
    """One pass over the image in tiles: what their corners' features project to stays in a core's cache."""

    def __init__(self, grid: CornerGrid, feat_Dhw: Tensor, lifts: list[CornerLift]) -> None:
        self.grid, self.lifts = grid, lifts
        self._pixels_hwD, dtype = feat_Dhw.permute(1, 2, 0), feat_Dhw.dtype
        parts = [lift.projection() for lift in lifts]
        self._projections = [FastLinear(w.to(dtype), b.to(dtype)) for w, b in parts]
        self._memory, self._kernels = feat_Dhw.new_empty(0), gpu.gpu_kernels(feat_Dhw)
        self._read_rows, self._read_cols = (axis.index[[0, 1]].tolist() for axis in (grid.ys, grid.xs))

    def __iter__(self) -> Iterator[LiftedBlock]:
        """From top to bottom, in bands of equally high tiles."""
        height, width = self.grid.size
        pixels = self._tile_pixels()
        # Square, to read few LR pixels; a GPU rather has few tiles.
        cols = min(width, max(math.isqrt(pixels), pixels // 64 if self._kernels else 1))
        rows = pixels // cols
        for top in range(0, height, rows):
            for left in range(0, width, cols):
                yield LiftedBlock(self, slice(top, min(top + rows, height)), slice(left, min(left + cols, width)))

    def _tile_pixels(self) -> int:
        """Half a block, as keys and values are twice as wide as others; for kernels of a GPU what bounds memory."""
        if self._kernels is None:
            return max(1, block_pixels(self._pixels_hwD) // 2)
        lr_share = len(CORNERS) * math.prod(self.grid.lr_size) / math.prod(self.grid.size)
        widths = [lift.col.shape[1] for lift in self.lifts]
        each = self._pixels_hwD.itemsize * (sum(widths) + lr_share * max(widths))
        return max(1, min(_KERNEL_PIXELS, int(_KERNEL_BYTES / each)))

    @cached_property
    def _reads(self) -> tuple[Tensor, Tensor]:
        """(H, 6) and (W, 6): the LR rows and columns of each image row's and column's four corners, its own share."""
        grid = self.grid
        rows, cols = (torch.arange(n, device=self._pixels_hwD.device) for n in grid.size)
        corner_rows = [grid.ys.index[cy] for cy, _ in CORNERS]
        corner_cols = [len(CORNERS) * grid.xs.index[cx] + corner for corner, (_, cx) in enumerate(CORNERS)]
        row_H6 = torch.stack([*corner_rows, rows, torch.zeros_like(rows)], -1)
        return row_H6, torch.stack([*corner_cols, torch.zeros_like(cols), cols], -1)

    @cached_property
    def _image(self) -> ImageGrid:
        return ImageGrid(self.grid.ys, self.grid.xs, self.grid.lr_size[1])

    def lifted(self, rows: slice, cols: slice) -> list[Tensor]:
        """(Q, K) of each lift at the pixels of a tile."""
        top, bottom = self._read_rows[0][rows.start], self._read_rows[1][rows.stop - 1] + 1
        left, right = self._read_cols[0][cols.start], self._read_cols[1][cols.stop - 1] + 1
        window = self._pixels_hwD[top:bottom, left:right]
        if self._kernels is not None:
            tile, lr_tile = (rows.start, cols.start, cols.stop - cols.start), (top, left, right - left)
            places = gpu.grid_of(self._kernels, self._image, tile, lr_tile)
            return self._lifted_on_gpu(self._kernels, places, window, (rows.stop - rows.start) * tile[2])
        lr_cols, first_row = right - left, len(CORNERS) * window.shape[0] * window.shape[1]
        first_col = first_row + rows.stop - rows.start
        steps = constants([len(CORNERS) * lr_cols] * 4 + [1, 0], window, torch.long)
        start = [-len(CORNERS) * (top * lr_cols + left)] * 4 + [first_row - rows.start, first_col - cols.start]
        row_H6, col_W6 = self._reads
        by_row = row_H6[rows] * steps + constants(start, steps)
        index_Q6 = (by_row[:, None] + col_W6[cols]).view(-1, 6)
        # Room behind the pixels' rows for those of image rows and columns, without copying the table.
        room = -(-(first_col + cols.stop - cols.start - first_row) // len(CORNERS))
        feat = F.pad(window.reshape(-1, window.shape[2]), (0, 0, 0, room))
        share_Q6 = self._shares(rows, cols)
        tables = []
        for lift, project in zip(self.lifts, self._projections, strict=True):
            table = self._table(feat, project).view(-1, lift.col.shape[1])
            table[first_row:first_col] = lift.row[rows]
            table[first_col : first_col + cols.stop - cols.start] = lift.col[cols]
            tables.append(weighted_rows(table, index_Q6, share_Q6))
        return tables

    def _lifted_on_gpu(self, kernels: ModuleType, places: Any, window_hwD: Tensor, count: int) -> list[Tensor]:
        feat_ND = window_hwD.reshape(-1, window_hwD.shape[2])
        return [
            gpu.lifted_rows(kernels, places, project(feat_ND).view(-1, lift.col.shape[1]), lift.row, lift.col, count)
            for lift, project in zip(self.lifts, self._projections, strict=True)
        ]

    def _table(self, feat_ND: Tensor, project: FastLinear) -> Tensor:
        """(N, 4 K), until the next one: memory that a core's cache holds already is written to twice as fast."""
        weight = project.weight
        if weight.dtype != torch.float32 or weight.device.type != "cpu" or not has_fast_mkl():
            return project(feat_ND)
        num = len(feat_ND) * len(weight)
        if len(self._memory) < num:
            self._memory = feat_ND.new_empty(num)
        return torch.mm(feat_ND, weight.t(), out=self._memory[:num].view(len(feat_ND), -1))

    def _shares(self, rows: slice, cols: slice) -> Tensor:
        """(Q, 6) weights of what ``lifted`` looks up: each corner's, then 1 for the row and for the column."""
        weights = ensemble_weights(self.grid.ys.rel[:, rows, None], self.grid.xs.rel[:, None, cols]).flatten(0, 1)
        return torch.cat([weights, weights.new_ones(2, *weights.shape[1:])]).flatten(1).t().contiguous()
