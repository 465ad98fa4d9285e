"""What ``kernels.cpp`` is called with: its structures, and layers laid out as its products read them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import Structure, byref, c_float, c_int32, c_void_p
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from anysr.native.library import is_plain_wanted, kernels

if TYPE_CHECKING:
    from anysr.decoders.grid import Strip
    from anysr.geometry import AxisCorners

# Inputs that the kernels multiply at a time, and outputs; widths are padded with zeros.
PAIR, TILE = 32, 16
# Queries of a block of SRNO: so many of the image's rows and columns.
BLOCK_ROWS, BLOCK_SHAPE = 128, (4, 32)
# Rows below which turning them into columns costs more than it brings.
_MIN_ROWS = 2048


def parts_for(feat: Tensor) -> int | None:
    """How the kernels multiply rows of this type; None means that they cannot, or are not there.

    0 is float32 by FMA, 1 bfloat16 by AMX; 3 and 2 are float32 as so many bfloat16 parts, by AMX: 3 is
    float32's precision, 2 is what ``torch.set_float32_matmul_precision("high")`` allows.
    """
    if is_plain_wanted() or feat.device.type != "cpu":
        return None
    library = kernels() if feat.dtype in (torch.float32, torch.bfloat16) else None
    if library is None:
        return None
    tiles = bool(library.anysr_has_tiles())
    if feat.dtype == torch.bfloat16:
        return 1 if tiles else None
    if not tiles:
        return 0
    return 3 if torch.get_float32_matmul_precision() == "highest" else 2


def gradient_parts(x: Tensor, num_rows: int) -> int | None:
    """How :func:`weight_gradient` multiplies so many rows like these, where that is faster than torch.

    Two parts for float32, whatever its matmul precision: nothing is computed from these gradients any more, in which
    errors could grow, and sums over thousands of rows are 4e-6 of the largest off (torch's 5e-7).
    """
    if x.dtype != torch.float32 or num_rows < _MIN_ROWS or torch.is_autocast_enabled(x.device.type):
        return None
    with torch.no_grad():
        return 2 if parts_for(x) else None


def padded(width: int, to: int = PAIR) -> int:
    """The next multiple of what the kernels multiply at a time."""
    return -(-width // to) * to


class _Layer(Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("num_in", c_int32), ("num_out", c_int32)]


class _Grid(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("index_y", "index_x", "rel_y", "rel_x")),
        *((name, c_int32) for name in ("height", "width", "top", "bottom", "first_row", "lr_cols")),
        ("rgb", c_void_p),
    ]


class _Lookup(Structure):
    _fields_ = [("feat", c_void_p), ("row", c_void_p), ("col", c_void_p), ("channels", c_int32)]


class _LiifCall(Structure):
    _fields_ = [
        ("grid", _Grid),
        *((name, c_void_p) for name in ("table", "rel_weight", "layers")),
        *((name, c_int32) for name in ("channels", "num_layers", "threads")),
    ]


class _SrnoCall(Structure):
    _fields_ = [
        ("grid", _Grid),
        ("first", _Lookup),
        ("second", _Lookup),
        *((name, c_void_p) for name in ("layers", "product", "sums", "kept")),
        *((name, c_int32) for name in ("num_kept", "first_block", "are_known", "width", "num_mixes", "threads")),
    ]


class _LinearCall(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "out", "layer")),
        *((name, c_int32) for name in ("rows", "num_in", "threads")),
    ]


class _ConvCall(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "skip", "out", "layer")),
        *((name, c_int32) for name in ("height", "width", "num_in", "num_out", "relu")),
        ("factor", c_float),
        ("threads", c_int32),
    ]


class _GradientCall(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "grad", "weight", "bias")),
        *((name, c_int32) for name in ("batch", "height", "width", "in", "out", "taps", "threads")),
    ]


class PackedLayers:
    """Linear layers that follow each other, each padded and laid out for ``parts``."""

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], parts: int) -> None:
        self._kept = [_packed(weight.detach(), bias.detach(), parts) for weight, bias in layers]
        rows = [_Layer(w.data_ptr(), b.data_ptr(), num_in, len(b)) for w, b, num_in in self._kept]
        self.structures = (_Layer * len(rows))(*rows)

    def __len__(self) -> int:
        return len(self._kept)


def _packed(weight_NK: Tensor, bias_N: Tensor, parts: int) -> tuple[Tensor, Tensor, int]:
    """Weights in tiles of 16 columns: each (in, 16) float32, or (parts, in / 32, 16 pairs, 16, 2) bfloat16."""
    num_in, num_out = padded(weight_NK.shape[1]), padded(len(weight_NK), TILE)
    weight = F.pad(weight_NK.float(), (0, num_in - weight_NK.shape[1], 0, num_out - len(weight_NK)))
    bias = F.pad(bias_N.float(), (0, num_out - len(bias_N)))
    if parts == 0:
        return weight.view(-1, TILE, num_in).transpose(1, 2).contiguous(), bias, num_in
    split = []
    for _ in range(parts):
        split.append(weight.bfloat16())
        weight = weight - split[-1].float()
    tiles = torch.stack(split).view(parts, num_out // TILE, TILE, num_in // PAIR, TILE, 2)
    return tiles.permute(1, 0, 3, 4, 2, 5).contiguous(), bias, num_in


class ImageGrid:
    """Where the neighbours of an image's pixels lie: each row's, each column's."""

    def __init__(self, ys: AxisCorners, xs: AxisCorners, lr_cols: int) -> None:
        self.index_y, self.index_x = (axis.index.int().contiguous() for axis in (ys, xs))
        self.rel_y, self.rel_x = (axis.rel.float().contiguous() for axis in (ys, xs))
        self.lr_cols = lr_cols


class StripGrid:
    """Some rows (3, R, W) of an image to fill, as the kernels take them."""

    def __init__(self, image: ImageGrid, strip: Strip, rgb_3RW: Tensor) -> None:
        height, width = rgb_3RW.shape[1:]
        assert rgb_3RW.is_contiguous() and rgb_3RW.dtype == torch.float32
        assert (height, width) == (strip.bottom - strip.top, image.index_x.shape[1])
        index_y, rel_y = (t[:, strip.top : strip.bottom].contiguous() for t in (image.index_y, image.rel_y))
        # The structure holds addresses: what they point to has to live as long.
        self._kept = (index_y, image.index_x, rel_y, image.rel_x, rgb_3RW)
        *places, rgb = (t.data_ptr() for t in self._kept)
        self.structure = _Grid(*places, height, width, 0, height, strip.first, image.lr_cols, rgb)


def linear(x_QK: Tensor, layer: PackedLayers, parts: int, out: Tensor | None = None) -> Tensor:
    """(Q, N) of one linear layer whose N is a multiple of ``TILE``, in the type of the rows.

    Args:
        x_QK: rows.
        layer: the layer.
        parts: as :func:`parts_for` answers.
        out: flat memory to answer in.
    """
    x_QK = x_QK.contiguous()
    shape = len(x_QK), layer.structures[0].num_out
    out = x_QK.new_empty(shape) if out is None else out[: shape[0] * shape[1]].view(shape)
    pointers = x_QK.data_ptr(), out.data_ptr(), ctypes.cast(layer.structures, c_void_p)
    _run("anysr_linear", _LinearCall(*pointers, *x_QK.shape, torch.get_num_threads()), parts)
    return out


def conv3x3(
    x_BhwC: Tensor,
    weight: Tensor,
    bias: Tensor,
    parts: int,
    relu: bool = False,
    skip_BhwN: Tensor | None = None,
    factor: float = 1.0,
) -> Tensor:
    """Skip + factor * relu(convolution), same-padded, (B, h, w, N); all images contiguous in this order."""
    batch, height, width, num_in = x_BhwC.shape
    rows = F.pad(weight.permute(0, 2, 3, 1), (0, padded(num_in, TILE) - num_in)).flatten(2)
    rows = F.pad(rows, (0, padded(rows.shape[2]) - rows.shape[2])).flatten(1)
    layer = PackedLayers([(rows, bias)], parts)
    assert x_BhwC.is_contiguous() and (skip_BhwN is None or skip_BhwN.is_contiguous())
    out = x_BhwC.new_empty(batch, height, width, len(weight))
    for b in range(batch):
        skip = None if skip_BhwN is None else skip_BhwN[b].data_ptr()
        pointers = x_BhwC[b].data_ptr(), skip, out[b].data_ptr(), ctypes.cast(layer.structures, c_void_p)
        shape = height, width, num_in, len(weight)
        _run("anysr_conv3x3", _ConvCall(*pointers, *shape, relu, factor, torch.get_num_threads()), parts)
    return out


def weight_gradient(x_BhwC: Tensor, grad_BhwN: Tensor, taps: int, parts: int) -> tuple[Tensor, Tensor]:
    """(N, C, taps) and (N): gradients of a layer's weight and bias, float32, from those of its answer.

    Args:
        x_BhwC: what the layer was given, contiguous in this order.
        grad_BhwN: gradient of its answer, likewise.
        taps: 9 for a same-padded 3x3 convolution, 1 for a linear layer.
        parts: as :func:`parts_for` answers.
    """
    num_in, num_out, threads = x_BhwC.shape[3], grad_BhwN.shape[3], torch.get_num_threads()
    shape = x_BhwC.shape if taps > 1 else (1, x_BhwC[..., 0].numel(), 1, num_in)
    assert x_BhwC.is_contiguous() and grad_BhwN.is_contiguous() and x_BhwC.dtype == grad_BhwN.dtype
    # A sum for each thread, added in order: the same answer each time.
    weight = torch.zeros(threads, taps, padded(num_in), padded(num_out))
    bias = torch.zeros(threads, padded(num_out))
    pointers = (t.data_ptr() for t in (x_BhwC, grad_BhwN, weight, bias))
    _run("anysr_weight_gradient", _GradientCall(*pointers, *shape, num_out, taps, threads), parts)
    return weight.sum(0)[:, :num_in, :num_out].permute(2, 1, 0), bias.sum(0)[:num_out]


def liif_strip(grid: StripGrid, table_NK: Tensor, rel_2K: Tensor, layers: PackedLayers, parts: int) -> None:
    """Fill a strip with LIIF's answers: all layers after the first, and the blend.

    Args:
        grid: the strip.
        table_NK: the first layer's share of the features, for each LR pixel of the strip; K padded.
        rel_2K: float32, the first layer's columns for the relative row and column.
        layers: the layers after the first.
        parts: as :func:`parts_for` answers.
    """
    num_layers, channels = len(layers), table_NK.shape[1]
    assert table_NK.is_contiguous() and rel_2K.is_contiguous() and rel_2K.dtype == torch.float32
    pointers = table_NK.data_ptr(), rel_2K.data_ptr(), ctypes.cast(layers.structures, c_void_p)
    call = _LiifCall(grid.structure, *pointers, channels, num_layers, torch.get_num_threads())
    _run("anysr_liif", call, parts)


def num_blocks_of(strip: Strip, width: int) -> int:
    """Blocks that the kernels cut a strip of an image of ``width`` columns into."""
    rows, cols = BLOCK_SHAPE
    return -(-(strip.bottom - strip.top) // rows) * -(-width // cols)


class KeptStates:
    """SRNO's hidden states of an image's first blocks, from one pass to the next."""

    def __init__(self, num_blocks: int, channels: int, most_bytes: int) -> None:
        room = max(0, min(num_blocks, most_bytes // (4 * BLOCK_ROWS * channels)))
        self.states = torch.empty(room, BLOCK_ROWS, channels, dtype=torch.float32)
        self.are_known = False
        self.first_block = 0

    def hold(self, num_blocks: int) -> bool:
        """Whether the states of so many blocks, from ``first_block`` on, are known."""
        return self.are_known and self.first_block + num_blocks <= len(self.states)


def srno_strip(
    grid: StripGrid,
    lookups: Sequence[tuple[Tensor, Tensor, Tensor]],
    layers: PackedLayers,
    num_mixes: int,
    width: int,
    moments: tuple[Tensor, Tensor] | None,
    kept: KeptStates,
    parts: int,
) -> None:
    """One pass of SRNO over a strip, after ``num_mixes`` attention layers.

    Args:
        grid: the strip.
        lookups: (table of the strip's corner features, rows' share, columns' share) of the hidden states and of
            what the first GELU takes; of keys and values alone where there is no attention layer yet; none where
            all states are known.
        layers: what follows the first GELU, in order.
        num_mixes: attention layers that are known.
        width: hidden channels.
        moments: float64 (products, sums) to add to; None to answer.
        kept: states of the pass before; this one's replace them.
        parts: as :func:`parts_for` answers.
    """
    structures = [_Lookup(f.data_ptr(), r.data_ptr(), c.data_ptr(), c.shape[1]) for f, r, c in lookups]
    first, second, *_ = [*structures, _Lookup(), _Lookup()]
    product, sums = (None, None) if moments is None else (t.data_ptr() for t in moments)
    pointers = ctypes.cast(layers.structures, c_void_p), product, sums, kept.states.data_ptr()
    numbers = len(kept.states), kept.first_block, kept.are_known, width, num_mixes, torch.get_num_threads()
    call = _SrnoCall(grid.structure, first, second, *pointers, *numbers)
    _run("anysr_srno", call, parts)


def _run(name: str, call: Structure, parts: int) -> None:
    library = kernels()
    assert library is not None
    failed = getattr(library, name)(byref(call), parts)
    assert not failed, f"{name} was called with {parts} parts, which this processor cannot multiply"
