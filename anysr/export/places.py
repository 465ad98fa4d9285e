"""Where pixels lie, as tensor arithmetic on sizes that are known only when a graph runs.

The same formulas as ``anysr/geometry.py``, and the same float32 roundings, because ties decide pixels:
what is a Python float there is a float64 scalar here, rounded where torch rounds it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from anysr.geometry import AxisCorners

_TIE_SHIFT = 1e-6


@dataclass(frozen=True)
class Grid:
    """An output grid over an image, and the rows of it that are asked for.

    Only what becomes the length of a tensor is a number; the rest are int64 scalars.

    Attributes:
        lr_size: (h, w).
        height: H, a scalar.
        width: W.
        top: first row asked for, a scalar.
        count: rows asked for.
        scale: (2,) float64, what conditions the network.
    """

    lr_size: tuple[int, int]
    height: Tensor
    width: int
    top: Tensor
    count: int
    scale: Tensor

    @classmethod
    def of(cls, lr: Tensor, scale: Tensor, size: Tensor, rows: Tensor | None = None) -> Grid:
        """The grid that a graph's inputs mean.

        Args:
            lr: (1, 3, h, w).
            scale: (2,) float64, (s_h, s_w).
            size: (2,) int64, (H, W); where it is 0, round(h * s_h) and round(w * s_w).
            rows: (2,) int64, [top, bottom); a bottom beyond the last row stands for the last row. None is all rows.
        """
        lr_size = (lr.shape[2], lr.shape[3])
        rounded = [(scale[i] * n).round().clamp_min(1).long() for i, n in enumerate(lr_size)]
        height, width = (torch.where(size[i] > 0, size[i], rounded[i]) for i in (0, 1))
        if rows is None:
            return cls(lr_size, height, _length(width), torch.zeros_like(height), _length(height), scale)
        top = torch.minimum(rows[0], height - 1)
        return cls(lr_size, height, _length(width), top, _length(torch.minimum(rows[1], height) - top), scale)

    def with_halo(self, halo: int) -> Grid:
        """So many more rows on either side, as far as there are any."""
        top = (self.top - halo).clamp(min=0)
        bottom = torch.minimum(self.top + self.count + halo, self.height)
        return replace(self, top=top, count=_length(bottom - top))

    def rows(self) -> Tensor:
        """(R,) float32 indices of the rows asked for."""
        return (torch.arange(self.count) + self.top).float()

    def columns(self) -> Tensor:
        """(W,) float32."""
        return torch.arange(self.width).float()

    def sizes(self) -> tuple[Tensor, Tensor]:
        """H and W as float64 scalars."""
        return self.height.double(), _number(self.width)

    def cell(self) -> Tensor:
        """(2,) float32: height and width of an output pixel, an LR pixel being 2."""
        return torch.stack([(2 / n) * m for n, m in zip(self.sizes(), self.lr_size, strict=True)]).float()

    def corners(self) -> tuple[AxisCorners, AxisCorners]:
        """The neighbours of each row asked for, and of each column; see ``geometry.axis_corners``."""
        height, width = self.sizes()
        centres = _centres(self.rows(), height), _centres(self.columns(), width)
        ys, xs = (_axis_corners(c, n) for c, n in zip(centres, self.lr_size, strict=True))
        return ys, xs

    def containing(self) -> tuple[AxisCorners, AxisCorners]:
        """The LR row and column that each row and column lies in; see ``geometry.axis_containing``."""
        height, width = self.sizes()
        ys = _axis_containing(self.rows(), height, self.lr_size[0])
        return ys, _axis_containing(self.columns(), width, self.lr_size[1])


def ensemble_weights(rel_y: Tensor, rel_x: Tensor) -> Tensor:
    """``geometry.ensemble_weights`` with numerator and denominator times 1e9.

    Optimisers of graphs take the addition of 1e-9 for that of nothing.
    """
    area = (rel_y.unsqueeze(1) * rel_x.unsqueeze(0)).abs() * 1e9 + 1
    return area.flip(0, 1) / area.sum(dim=(0, 1))


def feature_rows(feat_1Dhw: Tensor, index: Tensor, halo: int) -> tuple[Tensor, Tensor]:
    """The feature rows from the least to the greatest index, ``halo`` more on either side, zeros outside.

    Returns:
        (1, D, rows + 2 halo, w), and the least index.
    """
    first = index.min()
    count = _length(index.max() - first + 1 + 2 * halo)
    row = torch.arange(count) + (first - halo)
    inside = (row >= 0) & (row < feat_1Dhw.shape[2])
    picked = feat_1Dhw.index_select(2, row.clamp(min=0).minimum(_whole(feat_1Dhw.shape[2]) - 1))
    return picked * inside.to(picked.dtype)[:, None], first


def existing_rows(image_1Chw: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Rows [first, last) of an image, which has them."""
    return image_1Chw.index_select(2, torch.arange(_length(last - first)) + first)


def bilinear_rows(image_1Chw: Tensor, grid: Grid) -> Tensor:
    """(1, C, R, W): bilinear interpolation at the rows asked for, borders repeated."""
    height, width = grid.sizes()
    rows = _interpolated(image_1Chw, 2, grid.rows(), height)
    return _interpolated(rows, 3, grid.columns(), width)


def bicubic_rows(image_1Chw: Tensor, grid: Grid) -> Tensor:
    """(1, C, R, W) at the rows asked for: a = -1/2, what lies outside the image left out, as in Pillow."""
    height, width = grid.sizes()
    rows = _cubic(image_1Chw, 2, grid.rows(), height)
    return _cubic(rows, 3, grid.columns(), width)


def _interpolated(image: Tensor, dim: int, index: Tensor, size: Tensor) -> Tensor:
    place = _lr_places(index, size, image.shape[dim]).clamp(min=0).minimum(_number(image.shape[dim]) - 1)
    lower = place.long()
    upper = (lower + 1).minimum(_whole(image.shape[dim]) - 1)
    share = (place - lower).float().view([-1] + [1] * (3 - dim))
    return torch.lerp(image.index_select(dim, lower), image.index_select(dim, upper), share)


def _cubic(image: Tensor, dim: int, index: Tensor, size: Tensor) -> Tensor:
    place = _lr_places(index, size, image.shape[dim])
    base, last = place.floor().long(), _whole(image.shape[dim]) - 1
    shape = [-1] + [1] * (3 - dim)
    total, weights = torch.zeros(()), torch.zeros(())
    for tap in (-1, 0, 1, 2):
        row = base + tap
        distance = (place - row).abs()
        weight = _keys(distance) * ((row >= 0) & (row <= last))
        part = image.index_select(dim, row.clamp(min=0).minimum(last))
        total, weights = total + part * weight.float().view(shape), weights + weight
    return total / weights.float().view(shape)


def _keys(distance: Tensor) -> Tensor:
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))


def _lr_places(index: Tensor, size: int, lr_size: int) -> Tensor:
    """(n,) float64 positions in LR pixels."""
    return (index.double() + 0.5) * (_number(lr_size) / size) - 0.5


def _centres(index: Tensor, size: Tensor) -> Tensor:
    half = 1 / size
    return (-1 + half).float() + (2 * half).float() * index


def _axis_corners(coord: Tensor, lr_size: int) -> AxisCorners:
    half = 1 / _number(lr_size)
    lower, upper = coord + (-half + _TIE_SHIFT).float(), coord + (half + _TIE_SHIFT).float()
    index = _nearest(torch.stack([lower, upper]), lr_size)
    return AxisCorners(index, (coord - _centres(index.float(), _number(lr_size))) * _number(lr_size).float())


def _axis_containing(place: Tensor, size: Tensor, lr_size: int) -> AxisCorners:
    number = _number(lr_size)
    edge = _centres(place, size) - (2 / size / 2).float()
    index = _nearest(edge + _TIE_SHIFT, lr_size)
    edges = _centres(index.float(), _number(lr_size)) - (1 / number).float()
    return AxisCorners(index, (edge - edges) * (number / 2).float())


def _nearest(shifted: Tensor, lr_size: int) -> Tensor:
    place = shifted.clamp(-1 + _TIE_SHIFT, 1 - _TIE_SHIFT)
    index = (((place + 1) * _number(lr_size).float() - 1) / 2).round().long()
    return index.clamp(min=0).minimum(_whole(lr_size) - 1)


def _number(size: int) -> Tensor:
    """A size as a float64 scalar."""
    return torch.ones((), dtype=torch.float64) * size


def _whole(size: int) -> Tensor:
    """A size as an int64 scalar."""
    return torch.ones((), dtype=torch.int64) * size


def _length(value: Tensor) -> int:
    """A number of pixels as torch's tracing knows it."""
    length = value.item()
    torch._check(length >= 1)
    return cast(int, length)
