"""Where pixels lie, as tensor arithmetic on sizes that are known only when a graph runs.

The same formulas as ``anysr/geometry.py``, and the same float32 roundings, because ties decide pixels:
what is a Python float there is a float64 scalar here, rounded where torch rounds it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from anysr.geometry import TIE_SHIFT, AxisCorners


@dataclass(frozen=True)
class Grid:
    """An output grid over an image, the rows of it that are asked for, and the image's rows that are there.

    Only what becomes the length of a tensor is a number; the rest are int64 scalars.

    Attributes:
        lr_height: h, a scalar.
        lr_width: w.
        first: which row of the image is the first that is there, a scalar.
        height: H, a scalar.
        width: W.
        top: first row asked for, a scalar.
        count: rows asked for.
        scale: (2,) float64, what conditions the network.
    """

    lr_height: Tensor
    lr_width: int
    first: Tensor
    height: Tensor
    width: int
    top: Tensor
    count: int
    scale: Tensor

    @classmethod
    def of(
        cls, lr: Tensor, scale: Tensor, size: Tensor, rows: Tensor | None = None, window: Tensor | None = None
    ) -> Grid:
        """The grid that a graph's inputs mean.

        Args:
            lr: (1, 3, n, w), all of the image or some rows of it.
            scale: (2,) float64, (s_h, s_w).
            size: (2,) int64, (H, W); where it is 0, round(h * s_h) and round(w * s_w).
            rows: (2,) int64, [top, bottom); a bottom beyond the last row stands for the last row. None is all rows.
            window: (2,) int64, which row of the image the first of ``lr`` is, and h, where 0 stands for n.
        """
        given = torch.ones((), dtype=torch.int64) * lr.shape[2]
        first, lr_height = torch.zeros_like(given), given
        if window is not None:
            first, lr_height = window[0], torch.where(window[1] > 0, window[1], given)
        height = torch.where(size[0] > 0, size[0], _rounded(lr_height * scale[0]))
        width = torch.where(size[1] > 0, size[1], _rounded(scale[1] * lr.shape[3]))
        top, bottom = torch.zeros_like(height), height
        if rows is not None:
            top, bottom = torch.minimum(rows[0], height - 1), torch.minimum(rows[1], height)
        return cls(lr_height, lr.shape[3], first, height, _length(width), top, _length(bottom - top), scale)

    def with_halo(self, halo: int) -> Grid:
        """So many more rows on either side, as far as there are any."""
        top = (self.top - halo).clamp(min=0)
        bottom = torch.minimum(self.top + self.count + halo, self.height)
        return replace(self, top=top, count=_length(bottom - top))

    def rows(self) -> Tensor:
        """(R,) int64, the rows asked for."""
        return torch.arange(self.count) + self.top

    def sizes(self) -> tuple[Tensor, Tensor]:
        """H and W as float64 scalars."""
        return self.height.double(), _number(self.width)

    def lr_sizes(self) -> tuple[Tensor, Tensor]:
        """The image's h and w as float64 scalars."""
        return self.lr_height.double(), _number(self.lr_width)

    def cell(self) -> Tensor:
        """(2,) float32: height and width of an output pixel, an LR pixel being 2."""
        return torch.stack([(2 / n) * m for n, m in zip(self.sizes(), self.lr_sizes(), strict=True)]).float()

    def corners(self) -> tuple[AxisCorners, AxisCorners]:
        """The neighbours of each row asked for, and of each column; see ``geometry.axis_corners``."""
        return _axis_corners(*self._axis(0)), _axis_corners(*self._axis(1))

    def containing(self) -> tuple[AxisCorners, AxisCorners]:
        """The LR row and column that each row and column lies in; see ``geometry.axis_containing``."""
        return _axis_containing(*self._axis(0)), _axis_containing(*self._axis(1))

    def _axis(self, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels asked for, their number in all, and that of LR pixels."""
        return (torch.arange(self.width) if dim else self.rows()), self.sizes()[dim], self.lr_sizes()[dim]

    # What follows reads an image, or features, of which the rows from ``first`` on are there.

    def feature_rows(self, feat_1Dnw: Tensor, index: Tensor, halo: int) -> tuple[Tensor, Tensor]:
        """The feature rows from the least to the greatest index, ``halo`` more on either side, zeros outside the image.

        Returns:
            (1, D, rows + 2 halo, w), and the least index.
        """
        least = index.min()
        row = torch.arange(_length(index.max() - least + 1 + 2 * halo)) + (least - halo)
        inside = (row >= 0) & (row < self.lr_height)
        picked = feat_1Dnw.index_select(2, self._there(row, feat_1Dnw))
        return picked * inside.to(picked.dtype)[:, None], least

    def existing_rows(self, image_1Cnw: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """Rows [first, last) of the image, which has them."""
        return image_1Cnw.index_select(2, self._there(torch.arange(_length(last - first)) + first, image_1Cnw))

    def bilinear(self, image_1Cnw: Tensor) -> Tensor:
        """(1, C, R, W): bilinear interpolation at the rows asked for, borders repeated."""
        rows = self._between(image_1Cnw, 0)
        return self._between(rows, 1)

    def bicubic(self, image_1Cnw: Tensor) -> Tensor:
        """(1, C, R, W) at the rows asked for: a = -1/2, what lies outside the image left out, as in Pillow."""
        rows = self._cubic(image_1Cnw, 0)
        return self._cubic(rows, 1)

    def _there(self, row: Tensor, image: Tensor) -> Tensor:
        """Where rows of the image lie among those that are there."""
        return (row - self.first).clamp(min=0).minimum(torch.ones_like(self.first) * image.shape[2] - 1)

    def _take(self, image: Tensor, dim: int, index: Tensor) -> Tensor:
        inside = index.clamp(min=0).minimum(self.lr_sizes()[dim].long() - 1)
        return image.index_select(2 + dim, inside if dim else self._there(inside, image))

    def _places(self, dim: int) -> Tensor:
        """(n,) float64 positions in LR pixels."""
        index, size, lr_size = self._axis(dim)
        return (index.double() + 0.5) * (lr_size / size) - 0.5

    def _between(self, image: Tensor, dim: int) -> Tensor:
        index, size, lr_size = self._axis(dim)
        place = (_centres(index, size) + 1) * (lr_size / 2).float() - 0.5
        place = torch.where(size == lr_size, index.float(), place)
        place = place.clamp(min=0).minimum(lr_size.float() - 1)
        lower = place.long()
        share = (place - lower).view([-1] + [1] * (1 - dim))
        below, above = self._take(image, dim, lower), self._take(image, dim, lower + 1)
        return below + (above - below) * share

    def _cubic(self, image: Tensor, dim: int) -> Tensor:
        place, last = self._places(dim), self.lr_sizes()[dim] - 1
        base = place.floor().long()
        total, weights = torch.zeros(()), torch.zeros((), dtype=torch.float64)
        for tap in (-1, 0, 1, 2):
            row = base + tap
            weight = _keys((place - row).abs()) * ((row >= 0) & (row <= last))
            part = self._take(image, dim, row) * weight.float().view([-1] + [1] * (1 - dim))
            total, weights = total + part, weights + weight
        return total / weights.float().view([-1] + [1] * (1 - dim))


def ensemble_weights(rel_y: Tensor, rel_x: Tensor) -> Tensor:
    """``geometry.ensemble_weights`` with numerator and denominator times 1e9.

    Optimisers of graphs take the addition of 1e-9 for that of nothing.
    """
    area = (rel_y.unsqueeze(1) * rel_x.unsqueeze(0)).abs() * 1e9 + 1
    return area.flip(0, 1) / area.sum(dim=(0, 1))


def _keys(distance: Tensor) -> Tensor:
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))


def _centres(index: Tensor, size: Tensor) -> Tensor:
    half = 1 / size
    return (-1 + half).float() + (2 * half).float() * index.float()


def _axis_corners(index: Tensor, size: Tensor, lr_size: Tensor) -> AxisCorners:
    coord, half = _centres(index, size), 1 / lr_size
    lower, upper = coord + (-half + TIE_SHIFT).float(), coord + (half + TIE_SHIFT).float()
    nearest = _nearest(torch.stack([lower, upper]), lr_size)
    return AxisCorners(nearest, (coord - _centres(nearest, lr_size)) * lr_size.float())


def _axis_containing(index: Tensor, size: Tensor, lr_size: Tensor) -> AxisCorners:
    edge = _centres(index, size) - (2 / size / 2).float()
    nearest = _nearest(edge + TIE_SHIFT, lr_size)
    edges = _centres(nearest, lr_size) - (1 / lr_size).float()
    return AxisCorners(nearest, (edge - edges) * (lr_size / 2).float())


def _nearest(shifted: Tensor, lr_size: Tensor) -> Tensor:
    place = shifted.clamp(-1 + TIE_SHIFT, 1 - TIE_SHIFT)
    index = (((place + 1) * lr_size.float() - 1) / 2).round().long()
    return index.clamp(min=0).minimum(lr_size.long() - 1)


def _rounded(length: Tensor) -> Tensor:
    return length.round().clamp_min(1).long()


def _number(size: int) -> Tensor:
    """A size as a float64 scalar."""
    return torch.ones((), dtype=torch.float64) * size


def _length(value: Tensor) -> int:
    """A number of pixels as torch's tracing knows it."""
    length = value.item()
    torch._check(length >= 1)
    return cast(int, length)
