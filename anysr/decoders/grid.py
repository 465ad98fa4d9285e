"""How decoders walk over a whole image: strips of rows, blocks of pixels, and lookups in a table.

A strip bounds the memory of what is projected per LR pixel; a block keeps activations in a core's
cache. Neither changes the answer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from anysr.native import gpu

# The neighbours of a query, (y, x), in the order of LIIF's release.
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
# What one strip may project, in bytes: allocators hand back blocks of this size without the kernel's help.
STRIP_BYTES = 24 * 2**20


@dataclass(frozen=True)
class Rows:
    """Some rows of the answer for one image of a batch.

    Attributes:
        image: which image.
        top: the first of the rows.
        rgb: (3, rows, W) float32.
    """

    image: int
    top: int
    rgb: Tensor


def assemble(pieces: Iterable[Rows], batch: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """(batch, 3, H, W) from its rows."""
    rgb_B3HW = torch.empty(batch, 3, *size, dtype=torch.float32, device=device)
    for piece in pieces:
        rgb_B3HW[piece.image, :, piece.top : piece.top + piece.rgb.shape[1]] = piece.rgb
    return rgb_B3HW


@dataclass(frozen=True)
class Strip:
    """Consecutive output rows [top, bottom) and the feature rows [first, last) that they read."""

    top: int
    bottom: int
    first: int
    last: int


def strips(index_cH: Tensor, max_rows: int) -> Iterator[Strip]:
    """Cut the output rows into strips that read at most ``max_rows`` (at least 2) feature rows each.

    Args:
        index_cH: (c, H) ascending feature rows that each output row reads.
        max_rows: feature rows per strip.
    """
    first, last = index_cH.amin(0).tolist(), index_cH.amax(0).tolist()
    top = 0
    while top < len(first):
        bottom = bisect_left(last, first[top] + max(2, max_rows))
        yield Strip(top, bottom, first[top], last[bottom - 1] + 1)
        top = bottom


def strip_rows(feat: Tensor, row_bytes: int) -> int:
    """Feature rows of a strip where each of them costs ``row_bytes``; an accelerator takes longer strips."""
    return max(4, STRIP_BYTES * (1 if feat.device.type == "cpu" else 16) // row_bytes)


def blocks(strip: Strip, width: int, max_pixels: int) -> Iterator[tuple[slice, slice]]:
    """Cut a strip of ``width`` columns into (rows, columns) blocks of at most ``max_pixels`` pixels."""
    cols = min(width, max_pixels)
    rows = max(1, max_pixels // cols)
    for top in range(strip.top, strip.bottom, rows):
        for left in range(0, width, cols):
            yield slice(top, min(top + rows, strip.bottom)), slice(left, min(left + cols, width))


def block_pixels(feat: Tensor) -> int:
    """Pixels per block: a core's cache holds 2,048 rows of 256; an accelerator wants to be filled."""
    return 2048 if feat.device.type == "cpu" else 2**17


def weighted_rows(table_NK: Tensor, index_Qn: Tensor, weight_Qn: Tensor) -> Tensor:
    """(Q, K): for each query the weighted sum of n rows of a table, in one pass over memory."""
    if (kernels := gpu.gpu_kernels(table_NK)) is not None:
        return gpu.weighted_rows(kernels, table_NK, index_Qn, weight_Qn)
    return F.embedding_bag(index_Qn, table_NK, per_sample_weights=weight_Qn.to(table_NK.dtype), mode="sum")


def conv3x3_rows(feat_Dhw: Tensor, kernel: Tensor, bias: Tensor | None, strip: Strip) -> Tensor:
    """(pixels, channels) of a same-padded 3x3 convolution at the feature rows of a strip."""
    above, below = max(0, strip.first - 1), min(feat_Dhw.shape[1], strip.last + 1)
    rows = feat_Dhw[None, :, above:below].contiguous(memory_format=torch.channels_last)
    # Zeros stand in only for rows outside the image.
    pad = (1, 1, 1 - (strip.first - above), 1 - (below - strip.last))
    out_1Khw = F.conv2d(F.pad(rows, pad), kernel.contiguous(memory_format=torch.channels_last), bias)
    return out_1Khw[0].permute(1, 2, 0).reshape(-1, kernel.shape[0])
