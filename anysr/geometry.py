"""Where pixels lie: the only module that knows the coordinate convention.

The pixel centres of an axis of n pixels lie at -1 + (2i + 1) / n in [-1, 1], whatever n is, so that
a low-resolution image and its enlargement cover the same square. Coordinates are (y, x) pairs.
All arithmetic is float32 and in the order of LIIF's release, because at some scales a query falls
exactly between two pixels and rounding decides which of them it takes.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anysr.constants import constants

# A query is pushed up by a hair before the nearest pixel is taken, so ties go to the higher index.
TIE_SHIFT = 1e-6
# Of scales and of sides in pixels: beyond any image, and the product of two still fits 64 bits.
_LARGEST = 10**9

Pair = tuple[float, float]


@dataclass(frozen=True)
class Target:
    """What one call asks for: an output grid and the scale pair that conditions the network."""

    size: tuple[int, int]
    scale: Pair

    @property
    def largest_scale(self) -> float:
        return max(self.scale)


@dataclass(frozen=True)
class GridQueries:
    """Every pixel centre of an H x W image, kept as its two axes.

    Attributes:
        size: (H, W).
        scale: what the caller asked for, where a decoder needs more than ``cell`` says: H is
            rounded. None stands for the ratio of the sizes.
    """

    size: tuple[int, int]
    scale: Pair | None = None

    @property
    def cell(self) -> Pair:
        """Height and width of one output pixel in coordinate units."""
        return 2 / self.size[0], 2 / self.size[1]

    def as_points(self, batch: int, device: torch.device) -> PointQueries:
        """The same queries one by one, row by row, for each image of a batch."""
        axes = [pixel_centres(n, device) for n in self.size]
        coord = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        return PointQueries(coord.view(1, -1, 2).expand(batch, -1, -1), self.cell, self.scale)

    def as_image(self, answers_BQC: Tensor) -> Tensor:
        """(B, C, H, W) from the answers to :meth:`as_points`."""
        return answers_BQC.transpose(1, 2).reshape(len(answers_BQC), -1, *self.size)


@dataclass(frozen=True)
class PointQueries:
    """Scattered queries, different for each image of the batch.

    Attributes:
        coord: (B, Q, 2), (y, x) in [-1, 1].
        cell: height and width of one output pixel in coordinate units; a (2,) tensor in a graph that is
            recorded once for all scales.
        scale: as in :class:`GridQueries`, likewise.
    """

    coord: Tensor
    cell: Pair | Tensor
    scale: Pair | Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image whose pixels ``cell`` measures."""
        return round(2 / float(self.cell[0])), round(2 / float(self.cell[1]))


Queries = GridQueries | PointQueries


def pair_tensor(scale: Pair | Tensor, like: Tensor) -> Tensor:
    """(2,) of the type of ``like``; graphs that are exported know their scale only when they run."""
    return scale.to(like) if isinstance(scale, Tensor) else constants(scale, like)


def lr_cell(queries: Queries, feat_BDhw: Tensor) -> Tensor:
    """(2,) float32 height and width of one output pixel as networks are told them: half an LR pixel is 1."""
    height, width = feat_BDhw.shape[-2:]
    if isinstance(queries.cell, Tensor):
        return torch.stack([queries.cell[0] * height, queries.cell[1] * width]).float()
    return constants((queries.cell[0] * height, queries.cell[1] * width), feat_BDhw, torch.float32)


def scale_of(queries: Queries, feat_BDhw: Tensor) -> Pair:
    """The scale that the queries were made for, or else the ratio of their size to the features'."""
    height, width = feat_BDhw.shape[-2:]
    if queries.scale is None:
        return queries.size[0] / height, queries.size[1] / width
    return cast(Pair, queries.scale)


@dataclass(frozen=True)
class AxisCorners:
    """The two LR pixels that surround each query along one axis.

    Attributes:
        index: (2, ...) int64, the lower and the upper neighbour, clamped to the image.
        rel: (2, ...) float32, query minus that pixel's centre, times the number of LR pixels:
            half an LR pixel is 1.
    """

    index: Tensor
    rel: Tensor


def resolve_target(
    lr_size: tuple[int, int],
    scale: float | Sequence[float] | None,
    size: Sequence[int] | None,
) -> Target:
    """Turn the caller's ``scale`` and/or ``size`` into a grid and a conditioning scale pair.

    With ``scale`` alone the grid is round(h * s_h) x round(w * s_w); with ``size`` alone the scale
    is H / h, W / w; with both, ``size`` is the grid and ``scale`` conditions the network.

    Raises:
        ValueError: neither is given, a scale that is not from 1 to 10^9, a size that is not of such whole numbers.
    """
    if scale is None and size is None:
        raise ValueError("give scale=2.37, scale=(s_h, s_w), size=(H, W), or both; got neither")
    height, width = lr_size
    grid = None if size is None else checked_size(size)
    if scale is not None:
        pair = _checked_scale(scale)
    else:
        assert grid is not None
        pair = _checked_scale((grid[0] / height, grid[1] / width), of=f"size {grid} over an input of {lr_size}")
    if grid is None:
        grid = (max(1, round(height * pair[0])), max(1, round(width * pair[1])))
    return Target(grid, pair)


def pixel_centres(num_pixels: int, device: torch.device | None = None) -> Tensor:
    """(n,) float32 centres of an axis of n pixels, in [-1, 1]."""
    half = 1 / num_pixels
    return -1 + half + (2 * half) * torch.arange(num_pixels, device=device, dtype=torch.float32)


def axis_corners(coord: Tensor, num_pixels: int) -> AxisCorners:
    """Neighbours of each coordinate on an axis of ``num_pixels`` LR pixels (LIIF, local ensemble).

    Args:
        coord: (...) float32 in [-1, 1].
        num_pixels: h or w of the feature map.
    """
    half = 1 / num_pixels
    lower, upper = coord + (-half + TIE_SHIFT), coord + (half + TIE_SHIFT)
    shifted = torch.stack([lower, upper]).clamp(-1 + TIE_SHIFT, 1 - TIE_SHIFT)
    index = torch.round(((shifted + 1) * num_pixels - 1) / 2).long().clamp(0, num_pixels - 1)
    centres = pixel_centres(num_pixels, coord.device)
    return AxisCorners(index, (coord - centres[index]) * num_pixels)


def axis_containing(coord: Tensor, cell: float | Tensor, num_pixels: int) -> AxisCorners:
    """The LR pixel that holds each output pixel's upper edge, along one axis (Meta-SR in LIIF's form).

    Everything is moved up by half a pixel of its own grid: ``rel`` is the distance from the edge of
    the LR pixel to that of the output pixel, in LR pixels. No leading axis of two here.

    Args:
        coord: (...) float32 in [-1, 1], centres of output pixels.
        cell: size of an output pixel in coordinate units.
        num_pixels: h or w of the feature map.
    """
    edge = coord - cell / 2
    shifted = (edge + TIE_SHIFT).clamp(-1 + TIE_SHIFT, 1 - TIE_SHIFT)
    index = torch.round(((shifted + 1) * num_pixels - 1) / 2).long().clamp(0, num_pixels - 1)
    edges = pixel_centres(num_pixels, coord.device) - 1 / num_pixels
    return AxisCorners(index, (edge - edges[index]) * (num_pixels / 2))


def ensemble_weights(rel_y: Tensor, rel_x: Tensor) -> Tensor:
    """Blend weights of the four corners: the area of the diagonally opposite rectangle, normalised.

    Args:
        rel_y: (2, ...) relative rows of the lower and the upper neighbour.
        rel_x: (2, ...) relative columns, broadcastable against ``rel_y`` beyond the first axis.

    Returns:
        (2, 2, ...) weights for corner (y, x), float32, summing to 1 over the first two axes.
    """
    area = (rel_y.unsqueeze(1) * rel_x.unsqueeze(0)).abs() + 1e-9
    return area.flip(0, 1) / area.sum(dim=(0, 1))


def bilinear(image_BCHW: Tensor, queries: Queries) -> Tensor:
    """Bilinear interpolation of an image at the queries, borders repeated.

    Returns:
        (B, C, H, W) for a grid, (B, Q, C) for points.
    """
    if isinstance(queries, GridQueries):
        return bilinear_rows(image_BCHW, queries.size, 0, queries.size[0])
    grid_B1Q2 = queries.coord.flip(-1).unsqueeze(1)
    sampled = F.grid_sample(image_BCHW.float(), grid_B1Q2, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[:, :, 0, :].transpose(1, 2)


def bilinear_rows(image_BCHW: Tensor, size: tuple[int, int], top: int, bottom: int) -> Tensor:
    """Rows [top, bottom) of :func:`bilinear` on a grid, to the last bit the same on any number of threads.

    At float32 coordinates, as the released networks sample, but for a grid of the image's own size; in float32, or in
    float64 where the image is.
    """
    rows = _between(image_BCHW, 2, size[0], top, bottom)
    return _between(rows, 3, size[1], 0, size[1])


def _between(x_BCHW: Tensor, dim: int, num_pixels: int, first: int, last: int) -> Tensor:
    """Pixels [first, last) of one axis with ``num_pixels`` of them, each between two of ``x_BCHW``."""
    length, dtype = x_BCHW.shape[dim], torch.promote_types(x_BCHW.dtype, torch.float32)
    if num_pixels == length:
        return x_BCHW.narrow(dim, first, last - first).to(dtype)
    centres = pixel_centres(num_pixels, x_BCHW.device)[first:last]
    place = ((centres + 1) * (length / 2) - 0.5).clamp(0, length - 1)
    lower, share = place.long(), place - place.floor()
    below, above = (x_BCHW.index_select(dim, i).to(dtype) for i in (lower, (lower + 1).clamp_max(length - 1)))
    # Operation by operation: torch's own kernels round at the seams of their threads' parts in another way.
    return below + (above - below) * (share[:, None] if dim == 2 else share)


def checked_size(size: Sequence[int], what: str = "size must be (H, W)") -> tuple[int, int]:
    """Height and width as Python's numbers; ``what`` begins the refusal.

    Raises:
        ValueError: not two whole numbers from 1 to 10^9.
    """
    try:
        height, width = (operator.index(v) for v in (() if _is_unordered(size) else size))
    except (TypeError, ValueError):
        height = width = 0
    if not (1 <= height <= _LARGEST and 1 <= width <= _LARGEST):
        raise ValueError(f"{what}, two whole numbers from 1 to {_LARGEST:,}, got {size!r}")
    return height, width


def _checked_scale(scale: float | Sequence[float], of: str = "") -> Pair:
    given = () if _is_unordered(scale) else tuple(scale) if np.iterable(scale) else (scale, scale)
    try:
        values = () if any(isinstance(v, bool | str) for v in given) else tuple(float(v) for v in given)
    except (TypeError, ValueError, OverflowError):
        values = ()
    if len(values) != 2:
        raise ValueError(f"scale must be a number or (s_h, s_w), got {scale!r}")
    if not all(1 <= v <= _LARGEST for v in values):
        what = f"{scale!r}" + (f" ({of})" if of else "")
        raise ValueError(
            f"scale must be at least 1 and at most {_LARGEST:,}, got {what}; to shrink an image use a resampler"
        )
    return values[0], values[1]


def _is_unordered(pair: object) -> bool:
    """Whether nobody knows which of its values is the height's: a set's, or a dictionary's keys."""
    return isinstance(pair, Set | Mapping)
