"""The baselines of whole images as graphs: pixel shuffle, ECBSR, VDSR, in the rows that are asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anysr.decoders import Ecbsr, PixelShuffle, Vdsr
from anysr.decoders.fixed_scale import luma
from anysr.export.places import Grid


class PixelShuffleGraph(nn.Module):
    """Features to RGB, one factor."""

    state_shapes: tuple[tuple[int, ...], ...] = ()
    _HALO = 2

    def __init__(self, decoder: PixelShuffle) -> None:
        super().__init__()
        self.decoder, self.factor = decoder, decoder.config.factor

    def prepare(self, feat_1Dhw: Tensor, grid: Grid) -> tuple[Tensor, ...]:
        """Nothing."""
        return ()

    def answer(self, feat_1Dhw: Tensor, image_13hw: Tensor, state: tuple[Tensor, ...], grid: Grid) -> Tensor:
        """(3, R, W) in the network's colours."""
        given, first = _lr_rows(feat_1Dhw, grid, self.factor, self._HALO)
        return _picked(self.decoder._enlarge(given), grid, first * self.factor)


class EcbsrGraph(nn.Module):
    """The image to RGB, one factor."""

    state_shapes: tuple[tuple[int, ...], ...] = ()

    def __init__(self, decoder: Ecbsr) -> None:
        super().__init__()
        self.decoder, self.factor = decoder, decoder.config.factor

    def prepare(self, feat_1Dhw: Tensor, grid: Grid) -> tuple[Tensor, ...]:
        """Nothing."""
        return ()

    def answer(self, feat_1Dhw: Tensor, image_13hw: Tensor, state: tuple[Tensor, ...], grid: Grid) -> Tensor:
        """(3, R, W) in the network's colours."""
        given, first = _lr_rows(image_13hw, grid, self.factor, len(self.decoder.layers))
        sharp = _picked(self.decoder.sharpened(given), grid, first * self.factor)
        if self.decoder.config.colours == 3:
            return sharp
        smooth = grid.bicubic(image_13hw)
        return (smooth + (sharp[None] - luma(smooth)))[0]


class VdsrGraph(nn.Module):
    """The image to RGB at any scale."""

    state_shapes: tuple[tuple[int, ...], ...] = ()

    def __init__(self, decoder: Vdsr) -> None:
        super().__init__()
        self.decoder = decoder

    def prepare(self, feat_1Dhw: Tensor, grid: Grid) -> tuple[Tensor, ...]:
        """Nothing."""
        return ()

    def answer(self, feat_1Dhw: Tensor, image_13hw: Tensor, state: tuple[Tensor, ...], grid: Grid) -> Tensor:
        """(3, R, W) in the network's colours."""
        wider = grid.with_halo(self.decoder.config.num_layers)
        sharp = self.decoder._sharpened(wider.bicubic(image_13hw), self.decoder.config.hidden)
        return sharp[0].index_select(1, torch.arange(grid.count) + (grid.top - wider.top))


def _lr_rows(x_1Chw: Tensor, grid: Grid, factor: int, halo: int) -> tuple[Tensor, Tensor]:
    """What the rows asked for depend on, and its first row."""
    first = (grid.top // factor - halo).clamp(min=0)
    last = ((grid.top + grid.count + factor - 1) // factor + halo).minimum(grid.lr_height)
    return grid.existing_rows(x_1Chw, first, last), first


def _picked(rgb_1CHW: Tensor, grid: Grid, first: Tensor) -> Tensor:
    return rgb_1CHW[0].index_select(1, torch.arange(grid.count) + grid.top - first)
