"""SRNO's passes over an image through the compiled kernels: the same answers as block by block.

Nothing is kept between passes: a block's hidden states cost less to compute again than to fetch
from memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from anysr.decoders.corner_lift import CornerGrid, CornerLift
from anysr.decoders.galerkin import Mix, Moments
from anysr.decoders.grid import CORNERS, Strip, strip_rows, strips
from anysr.native.fused import ImageGrid, PackedLayers, StripGrid, linear, padded, srno_strip

# The kernels take a head as one vector.
FUSED_HEAD = 16

_Layers = list[tuple[Tensor, Tensor]]


class FusedSrno:
    """One image; ``mixes`` are the attention layers known so far."""

    def __init__(self, grid: CornerGrid, feat_Dhw: Tensor, lift: CornerLift, parts: int) -> None:
        """Take the first layer ``lift`` on the features, multiplied as ``parts`` says (``parts_for``)."""
        self.grid, self.feat_Dhw, self.lift, self.parts = grid, feat_Dhw, lift, parts
        self.width = lift.col.shape[1]
        self.mixes: list[Mix] = []

    def moments(self, weight: Tensor, bias: Tensor) -> Moments:
        """Sums over all pixels of the keys and values that this layer makes of the states."""
        heads = self.width // FUSED_HEAD
        product = torch.zeros(heads, FUSED_HEAD, FUSED_HEAD, dtype=torch.float64)
        sums = torch.zeros(2 * heads, FUSED_HEAD, dtype=torch.float64)
        lifts, layers = (
            (self._states(), [*self._after_gelu(), (weight, bias)])
            if self.mixes
            else ([self.lift.then(weight, bias)], [])
        )
        for _ in self._walk(lifts, layers, (product, sums)):
            pass
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

    def _walk(
        self, lifts: Sequence[CornerLift], layers: _Layers, moments: tuple[Tensor, Tensor] | None
    ) -> Iterator[tuple[int, Tensor]]:
        feat, cols = self.feat_Dhw, self.grid.lr_size[1]
        packed = PackedLayers(layers, self.parts)
        projections = [PackedLayers([lift.projection()], self.parts) for lift in lifts]
        columns = [lift.col.contiguous() for lift in lifts]
        image = ImageGrid(self.grid.ys, self.grid.xs, cols)
        channels = max(lift.col.shape[1] for lift in lifts)
        for strip in strips(self.grid.ys.index, strip_rows(feat, len(CORNERS) * cols * channels * feat.itemsize)):
            rgb_3RW = torch.empty(3, strip.bottom - strip.top, self.grid.size[1])
            pixels = _pixels(feat, strip)
            lookups = [
                (linear(pixels, layer, self.parts).view(-1, col.shape[1]), _rows(lift, strip), col)
                for lift, layer, col in zip(lifts, projections, columns, strict=True)
            ]
            strip_grid = StripGrid(image, strip, rgb_3RW)
            srno_strip(strip_grid, lookups, packed, len(self.mixes), self.width, moments, self.parts)
            yield strip.top, rgb_3RW


def _rows(lift: CornerLift, strip: Strip) -> Tensor:
    return lift.row[strip.top : strip.bottom].contiguous()


def _pixels(feat_Dhw: Tensor, strip: Strip) -> Tensor:
    """(pixels, D) of the feature rows that a strip reads."""
    return feat_Dhw[:, strip.first : strip.last].permute(1, 2, 0).reshape(-1, len(feat_Dhw))


def _wider(lift: CornerLift, more: int) -> CornerLift:
    """With so many more channels, all 0."""
    return CornerLift(F.pad(lift.feat, (0, 0, 0, more)), F.pad(lift.row, (0, more)), F.pad(lift.col, (0, more)))
