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

from anysr.constants import constants
from anysr.native.library import are_wanted, is_plain_wanted
from anysr.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from types import ModuleType

    from anysr.native.fused import ImageGrid

# The widest layers of LIIF whose weights fit into what a GPU multiplies from, and pixels of a program.
_MAX_WIDTH, _BLOCKS = 256, (128, 64, 32)
HEAD = 16  # channels of a head of SRNO
_GATHERED = 16  # rows that a program looks up
_CHUNK = 2048  # queries whose moments one program sums
_OPTIONS = {"enable_fp_fusion": True}  # said so that Triton does not warn of another default to come


def gpu_kernels(like: Tensor) -> ModuleType | None:
    """The kernels for tensors like this, or None where they are not there or of no use."""
    if like.device.type != "cuda" or is_plain_wanted() or not are_wanted():
        return None
    return _kernels_for(like.device)


@cache
def _kernels_for(device: torch.device) -> ModuleType | None:
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        from anysr.native import gpu_kernels as kernels
    except ImportError:  # PyTorch brings Triton on Linux alone
        return None
    row = torch.zeros(4, 2 * HEAD, device=device)
    try:
        weighted_rows(kernels, row, torch.zeros(1, 1, dtype=torch.long, device=device), row[:1, :1].contiguous())
        head_moments(kernels, lifted_rows(kernels, _one_pixel(kernels, device), row, row, row, 1))
    except Exception as error:  # no C compiler for what launches, a GPU that Triton does not know, …
        if is_out_of_memory(error):  # which is no reason to do without kernels later, and for the caller to deal with
            raise
        _say_refused("kernels are", error)
        return None
    return kernels


def grid_of(kernels: ModuleType, image: ImageGrid, tile: tuple[int, int, int], lr_tile: tuple[int, int, int]) -> Any:
    """Places of a tile of an image among LR pixels; both tiles are (first row, first column, columns)."""
    size = image.index_y.shape[1], image.index_x.shape[1]
    places = image.index_y, image.index_x, image.rel_y, image.rel_x
    return kernels.Grid(*places, constants([*size, *tile, *lr_tile], image.rel_y, torch.long))


def _one_pixel(kernels: ModuleType, device: torch.device) -> Any:
    """The grid of an image of one pixel, to try kernels out."""
    place = torch.zeros(2, 1, device=device)
    return kernels.Grid(place.int(), place.int(), place, place, constants([1, 1, 0, 0, 1, 0, 0, 1], place, torch.long))


def weighted_rows(kernels: ModuleType, table_NK: Tensor, index_Qn: Tensor, share_Qn: Tensor) -> Tensor:
    """(Q, K): for each query the weighted sum of n rows of a table."""
    assert table_NK.is_contiguous() and index_Qn.is_contiguous() and share_Qn.is_contiguous()
    (num, taps), width = index_Qn.shape, table_NK.shape[1]
    out, (programs, cols) = table_NK.new_empty(num, width), _programs(num, width)
    with torch.cuda.device_of(out):
        kernels.weighted_rows[programs](
            table_NK, index_Qn, share_Qn, out, num, width, taps, cols, _GATHERED, **_OPTIONS
        )
    return out


def lifted_rows(
    kernels: ModuleType, grid: Any, corners_NK: Tensor, row_HK: Tensor, col_WK: Tensor, count: int
) -> Tensor:
    """(count, K): a linear layer on weighted corner features at all pixels of a tile.

    Args:
        kernels: as :func:`gpu_kernels` answers.
        grid: as :func:`grid_of` answers.
        corners_NK: what the layer makes of each LR pixel as each of the four corners, one after the other.
        row_HK: its share of each row of the image, float32; with ``col_WK`` that of each column.
        col_WK: see there.
        count: of pixels.
    """
    assert corners_NK.is_contiguous() and row_HK.is_contiguous() and col_WK.is_contiguous()
    width = col_WK.shape[1]
    out, (programs, cols) = corners_NK.new_empty(count, width), _programs(count, width)
    with torch.cuda.device_of(out):
        kernels.lifted_rows[programs](grid, corners_NK, row_HK, col_WK, out, count, width, cols, _GATHERED, **_OPTIONS)
    return out


def head_moments(kernels: ModuleType, centred_QK: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over queries, (N, c, c) of standardised keys times values and (2 N, c) of both, float32.

    Args:
        kernels: as :func:`gpu_kernels` answers.
        centred_QK: (Q, 2 N c) keys of all heads of c = 16 channels, then values, each head's mean subtracted.
    """
    assert centred_QK.is_contiguous()
    num, heads = len(centred_QK), centred_QK.shape[1] // (2 * HEAD)
    chunks = -(-num // _CHUNK)
    product = centred_QK.new_empty(chunks, heads, HEAD, HEAD, dtype=torch.float32)
    sums = centred_QK.new_empty(chunks, 2 * heads, HEAD, dtype=torch.float32)
    with torch.cuda.device_of(centred_QK):
        kernels.head_moments[chunks, heads](
            centred_QK, product, sums, num, heads, _CHUNK, HEAD, 128, num_warps=2, **_OPTIONS
        )
    return product.sum(0), sums.sum(0)


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

    def fill(self, grid: Any, table_NK: Tensor, rel_2K: Tensor, layers: Any, rgb_3RW: Tensor) -> None:
        """Fill a tile of an image, given the first layer's share of the LR pixels' features and of rel (float32)."""
        assert table_NK.is_contiguous() and rel_2K.is_contiguous() and rgb_3RW.is_contiguous()
        count = rgb_3RW[0].numel()
        given = grid, table_NK, rel_2K, layers, rgb_3RW, count, len(layers.weights)
        # One stage: a second one would hold another layer's weights.
        options = {"num_warps": 8 if self.width > 128 else 4, "num_stages": 1, **_OPTIONS}
        with torch.cuda.device_of(rgb_3RW):
            self.kernels.liif[(-(-count // self.block),)](*given, self.width, self.block, **options)

    def try_out(self, like: Tensor) -> None:
        """Answer for an image of one pixel; raises where the kernel cannot be compiled or does not fit."""
        grid = _one_pixel(self.kernels, like.device)
        table = like.new_zeros(2, self.width)
        shapes = [(self.width, self.width)] * 2 + [(3, self.width)]
        layers = self.stacked([(like.new_zeros(shape), like.new_zeros(shape[0])) for shape in shapes], like)
        self.fill(grid, table, table.float(), layers, torch.zeros(3, 1, 1, device=like.device))


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
            if is_out_of_memory(reason):
                raise
            error = reason
    if error is not None:
        _say_refused("kernel of LIIF is", error)
    return None


def _say_refused(what: str, error: Exception) -> None:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    warnings.warn(f"the GPU's {what} off, torch's operators do the same: {first}", stacklevel=2)


def _programs(num_rows: int, width: int) -> tuple[tuple[int, int], int]:
    """How many programs look up so many rows, and columns that each takes."""
    cols = min(256, _power_of_two(width))
    return (-(-num_rows // _GATHERED), -(-width // cols)), cols


def _power_of_two(width: int) -> int:
    return 1 << (width - 1).bit_length()
