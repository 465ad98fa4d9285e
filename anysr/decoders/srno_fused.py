"""SRNO's passes over an image through the compiled kernels: the same answers as block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anysr.decoders.corner_lift import CornerGrid, CornerLift
from anysr.decoders.galerkin import Mix, Moments
from anysr.decoders.grid import CORNERS, Strip, strip_rows, strips
from anysr.native.fused import (
    ImageGrid,
    KeptStates,
    PackedLayers,
    StripGrid,
    linear,
    num_blocks_of,
    padded,
    srno_strip,
)

# The kernels take a head as one vector.
FUSED_HEAD = 16
# Hidden states kept between passes instead of being computed again, in bytes.
KEPT_BYTES = 384 * 2**20

_Layers = list[tuple[Tensor, Tensor]]


class FusedSrno:
    """One image; ``mixes`` are the attention layers known so far."""

    def __init__(self, grid: CornerGrid, feat_Dhw: Tensor, lift: CornerLift, parts: int) -> None:
        """Take the first layer ``lift`` on the features, multiplied as ``parts`` says (``parts_for``)."""
        self.grid, self.feat_Dhw, self.lift, self.parts = grid, feat_Dhw, lift, parts
        self.width = lift.col.shape[1]
        self.mixes: list[Mix] = []
        self.kept = KeptStates(0, padded(self.width), 0)

    def moments(self, weight: Tensor, bias: Tensor) -> Moments:
        """Sums over all pixels of the keys and values that this layer makes of the states."""
        heads = self.width // FUSED_HEAD
        product = torch.zeros(heads, FUSED_HEAD, FUSED_HEAD, dtype=torch.float64)
        sums = torch.zeros(2 * heads, FUSED_HEAD, dtype=torch.float64)
        if self.mixes:
            lifts, layers = self._states(), [*self._after_gelu(), (weight, bias)]
            if not self.kept.are_known:
                num_blocks = sum(num_blocks_of(strip, self.grid.size[1]) for strip in self._strips(lifts))
                self.kept = KeptStates(num_blocks, padded(self.width), KEPT_BYTES)
        else:
            lifts, layers = [self.lift.then(weight, bias)], []
        for _ in self._walk(lifts, layers, (product, sums)):
            pass
        self.kept.are_known = bool(self.mixes)
        return Moments(product[None].float(), sums[None].float(), self.grid.size[0] * self.grid.size[1])

    def answer(self, layers: _Layers) -> Iterator[tuple[int, Tensor]]:
        """Strips of the image, each its first row and (3, R, W), from the states and the last two layers."""
        return self._walk(self._states(), [*self._after_gelu(), *layers], None)

    def _states(self) -> list[CornerLift]:
        """The hidden states, and the first attention layer up to its GELU: both linear in the first layer's input."""
        first = self.mixes[0]
        more = padded(self.width) - self.width
        return [_wider(lift, more) for lift in (self.lift, self.lift.then(first.w1[0], first.b1[0]))]

    def _after_gelu(self) -> _Layers:
        first, *others = self.mixes
        return [(first.w2, first.b2), *(layer for m in others for layer in ((m.w1[0], m.b1[0]), (m.w2, m.b2)))]

    def _strips(self, lifts: Sequence[CornerLift]) -> list[Strip]:
        row_values = len(CORNERS) * self.grid.lr_size[1] * max(lift.col.shape[1] for lift in lifts)
        return list(strips(self.grid.ys.index, strip_rows(self.feat_Dhw, row_values * self.feat_Dhw.itemsize)))

    def _walk(
        self, lifts: Sequence[CornerLift], layers: _Layers, moments: tuple[Tensor, Tensor] | None
    ) -> Iterator[tuple[int, Tensor]]:
        packed = PackedLayers(layers, self.parts)
        image = ImageGrid(self.grid.ys, self.grid.xs, self.grid.lr_size[1])
        all_strips = self._strips(lifts)
        tables = [_Table(lift, self.feat_Dhw, all_strips, self.parts) for lift in lifts]
        self.kept.first_block = 0
        for strip in all_strips:
            rgb_3RW = torch.empty(3, strip.bottom - strip.top, self.grid.size[1], dtype=torch.float32)
            num_blocks = num_blocks_of(strip, self.grid.size[1])
            lookups = [] if self.kept.hold(num_blocks) else [table.lookup(strip) for table in tables]
            strip_grid = StripGrid(image, strip, rgb_3RW)
            srno_strip(strip_grid, lookups, packed, len(self.mixes), self.width, moments, self.kept, self.parts)
            self.kept.first_block += num_blocks
            yield strip.top, rgb_3RW


class _Table:
    """What a lift makes of the corners' features of one strip at a time, in the same memory."""

    def __init__(self, lift: CornerLift, feat_Dhw: Tensor, all_strips: Sequence[Strip], parts: int) -> None:
        self._lift, self._feat_Dhw, self._parts = lift, feat_Dhw, parts
        self._layer = PackedLayers([lift.projection()], parts)
        self._col = lift.col.contiguous()
        rows = max(strip.last - strip.first for strip in all_strips)
        num_values = rows * feat_Dhw.shape[2] * len(CORNERS) * self._col.shape[1]
        self._memory = feat_Dhw.new_empty(num_values)

    def lookup(self, strip: Strip) -> tuple[Tensor, Tensor, Tensor]:
        """(4 pixels, K) of the corners, (R, K) of the strip's rows, (W, K) of the columns."""
        pixels = self._feat_Dhw[:, strip.first : strip.last].permute(1, 2, 0).reshape(-1, len(self._feat_Dhw))
        corners = linear(pixels, self._layer, self._parts, self._memory).view(-1, self._col.shape[1])
        return corners, self._lift.row[strip.top : strip.bottom].contiguous(), self._col


def _wider(lift: CornerLift, more: int) -> CornerLift:
    """With so many more channels, all 0."""
    return CornerLift(F.pad(lift.feat, (0, 0, 0, more)), F.pad(lift.row, (0, more)), F.pad(lift.col, (0, more)))
