"""Decoders' passes over an image on a GPU, by ``gpu_kernels.py``: the same answers as by torch's operators.

Triton comes with PyTorch's builds for NVIDIA GPUs and compiles a kernel at its first use. Where it is
not there, or cannot compile for a GPU, the plain path is taken; ``ANYSR_KERNELS=off`` asks for that.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anysr.native.library import are_wanted

if TYPE_CHECKING:
    from types import ModuleType

    from anysr.native.fused import ImageGrid

# The widest layers of LIIF whose weights fit into what a GPU multiplies from, and pixels of a program.
_MAX_WIDTH, _BLOCKS = 256, (128, 64, 32)
_GATHERED = 16  # rows that a program looks up
_CHUNK = 2048  # queries whose moments one program sums


def gpu_kernels(like: Tensor) -> ModuleType | None:
    """The kernels for tensors like this, or None where they are not there or of no use."""
    if like.device.type != "cuda" or torch.is_grad_enabled() or torch.compiler.is_compiling() or not are_wanted():
        return None
    return _kernels_for(like.device)


@cache
def _kernels_for(device: torch.device) -> ModuleType | None:
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        from anysr.native import gpu_kernels as kernels

        row = torch.ones(1, 16, device=device)
        weighted_rows(kernels, row, torch.zeros(1, 1, dtype=torch.long, device=device), row[:, :1].contiguous())
    except Exception as error:  # no Triton, no C compiler for what launches, a GPU that it does not know, …
        _say_refused(error)
        return None
    return kernels


def weighted_rows(kernels: ModuleType, table_NK: Tensor, index_Qn: Tensor, share_Qn: Tensor) -> Tensor:
    """(Q, K): for each query the weighted sum of n rows of a table."""
    (num, taps), width = index_Qn.shape, table_NK.shape[1]
    out, (programs, cols) = table_NK.new_empty(num, width), _programs(num, width)
    with torch.cuda.device_of(out):
        kernels.weighted_rows[programs](table_NK, index_Qn, share_Qn, out, num, width, taps, cols, _GATHERED)
    return out


def lifted_rows(
    kernels: ModuleType, grid: Any, corners_NK: Tensor, row_HK: Tensor, col_WK: Tensor, first: int, count: int
) -> Tensor:
    """(count, K): a linear layer on weighted corner features, from the pixel ``first`` of the image on.

    Args:
        kernels: as :func:`gpu_kernels` answers.
        grid: as :func:`grid_of` answers.
        corners_NK: what the layer makes of each LR pixel as each of the four corners, one after the other.
        row_HK: its share of each row of the image, float32; with ``col_WK`` that of each column.
        col_WK: see there.
        first: row by row.
        count: of pixels.
    """
    width = col_WK.shape[1]
    out, (programs, cols) = corners_NK.new_empty(count, width), _programs(count, width)
    with torch.cuda.device_of(out):
        kernels.lifted_rows[programs](grid, corners_NK, row_HK, col_WK, out, first, count, width, cols, _GATHERED)
    return out


def head_moments(kernels: ModuleType, centred_QK: Tensor, head: int) -> tuple[Tensor, Tensor]:
    """Sums over queries, (N, c, c) of standardised keys times values and (2 N, c) of both, float32.

    Args:
        kernels: as :func:`gpu_kernels` answers.
        centred_QK: (Q, 2 N c) keys of all heads, then values, each head's mean subtracted.
        head: channels c of a head, 16 or a larger power of two.
    """
    num, heads = len(centred_QK), centred_QK.shape[1] // (2 * head)
    chunks = -(-num // _CHUNK)
    product = centred_QK.new_empty(chunks, heads, head, head, dtype=torch.float32)
    sums = centred_QK.new_empty(chunks, 2 * heads, head, dtype=torch.float32)
    with torch.cuda.device_of(centred_QK):
        kernels.head_moments[chunks, heads](centred_QK, product, sums, num, heads, _CHUNK, head, 128, num_warps=2)
    return product.sum(0), sums.sum(0)


def grid_of(kernels: ModuleType, image: ImageGrid, first_row: int) -> Any:
    """Places of an image's pixels among the LR pixels from ``first_row`` on."""
    size = image.index_y.shape[1], image.index_x.shape[1]
    return kernels.Grid(image.index_y, image.index_x, image.rel_y, image.rel_x, *size, first_row, image.lr_cols)


@dataclass(frozen=True)
class FusedLiif:
    """The kernel that takes a block of pixels through all of LIIF's layers, for one type and width.

    Attributes:
        kernels: the module.
        width: hidden units K, padded.
        block: pixels of a program.
    """

    kernels: ModuleType
    width: int
    block: int

    @classmethod
    def of(cls, feat: Tensor, width: int) -> FusedLiif | None:
        """That for features like these and so many hidden units; None in float32, whose weights do not fit."""
        if width > _MAX_WIDTH or feat.dtype not in (torch.bfloat16, torch.float16):
            return None
        kernels = gpu_kernels(feat)
        return None if kernels is None else _fused(kernels, max(16, _power_of_two(width)), feat.dtype, feat.device)

    def stacked(self, layers: Sequence[tuple[Tensor, Tensor]], like: Tensor) -> Any:
        """Weight and bias of the layers after the first, padded and laid out for the kernel."""
        *hidden, (colours, bias) = layers
        weights = like.new_zeros(len(hidden), self.width, self.width)
        biases = like.new_zeros(len(hidden), self.width, dtype=torch.float32)
        for i, (w, b) in enumerate(hidden):
            weights[i, : w.shape[1], : w.shape[0]], biases[i, : len(b)] = w.t(), b
        last = F.pad(colours.t(), (0, 13, 0, self.width - colours.shape[1])).to(like.dtype)
        return self.kernels.Layers(weights, biases, last.contiguous(), F.pad(bias.float(), (0, 13)))

    def fill(self, grid: Any, table_NK: Tensor, rel_2K: Tensor, layers: Any, rgb_3RW: Tensor, top: int) -> None:
        """Fill rows of an image from ``top`` on, given the first layer's share of the features and of rel (float32)."""
        count, num_layers = rgb_3RW[0].numel(), len(layers.weights)
        given = grid, table_NK, rel_2K, layers, rgb_3RW, top * grid.width, count, num_layers
        # One stage: a second one would hold another layer's weights.
        options = {"num_warps": 8 if self.width > 128 else 4, "num_stages": 1}
        with torch.cuda.device_of(rgb_3RW):
            self.kernels.liif[(-(-count // self.block),)](*given, self.width, self.block, **options)

    def try_out(self, like: Tensor) -> None:
        """Answer for an image of one pixel; raises where the kernel cannot be compiled or does not fit."""
        place = torch.zeros(2, 1, dtype=torch.int32, device=like.device)
        grid = self.kernels.Grid(place, place, place.float(), place.float(), 1, 1, 0, 1)
        table = like.new_zeros(2, self.width)
        shapes = [(self.width, self.width)] * 2 + [(3, self.width)]
        layers = self.stacked([(like.new_zeros(shape), like.new_zeros(shape[0])) for shape in shapes], like)
        self.fill(grid, table, table.float(), layers, torch.zeros(3, 1, 1, device=like.device), 0)


@cache
def _fused(kernels: ModuleType, width: int, dtype: torch.dtype, device: torch.device) -> FusedLiif | None:
    """With the longest blocks that fit beside the weights."""
    room = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    error: Exception | None = None
    for block in _BLOCKS:
        if dtype.itemsize * width * (width + block) > room:
            continue
        fused = FusedLiif(kernels, width, block)
        try:
            fused.try_out(torch.zeros(0, dtype=dtype, device=device))
            return fused
        except Exception as reason:  # Triton raises many kinds where a kernel needs more than there is
            error = reason
    if error is not None:
        _say_refused(error)
    return None


def _say_refused(error: Exception) -> None:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    warnings.warn(
        f"kernels for the GPU are off, the plain path is used: {first}; ANYSR_KERNELS=off silences this", stacklevel=2
    )


def _programs(num_rows: int, width: int) -> tuple[tuple[int, int], int]:
    """How many programs look up so many rows, and columns that each takes."""
    cols = min(256, _power_of_two(width))
    return (-(-num_rows // _GATHERED), -(-width // cols)), cols


def _power_of_two(width: int) -> int:
    return 1 << (width - 1).bit_length()
