"""The colour range a network works in; callers always see RGB in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from anysr.constants import constants
from anysr.fields import set_typed

_Row = tuple[float, float, float, float]
Affine = tuple[_Row, _Row, _Row]


def _diagonal(factor: float, offsets: tuple[float, float, float]) -> Affine:
    r, g, b = offsets
    return (factor, 0.0, 0.0, r), (0.0, factor, 0.0, g), (0.0, 0.0, factor, b)


# (x - 0.5) / 0.5 and back, as LIIF and its successors work.
_TO_HALF = _diagonal(2.0, (-1.0, -1.0, -1.0))
_FROM_HALF = _diagonal(0.5, (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class ColourConfig:
    """Affine maps, each three rows of (from R, from G, from B, constant).

    They are part of the configuration, not weights, so that half precision cannot round them.

    Attributes:
        to_network: RGB in [0, 1] to the network's input.
        to_rgb: the network's answer back to RGB in [0, 1].
        to_encoder: the network's input to the encoder's, where that differs; AnySR's release shifts
            the encoder's by a mean colour, but not what its decoder adds to the answer.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    to_network: Affine = _TO_HALF
    to_rgb: Affine = _FROM_HALF
    to_encoder: Affine | None = None

    def __post_init__(self) -> None:
        set_typed(self, "colour")
        for name, rows in vars(self).items():
            if not all(math.isfinite(value) for row in rows or () for value in row):
                raise ValueError(f"colour.{name} must hold finite numbers, got {rows}")


# Mean colour of DIV2K's training images (EDSR's and RCAN's released code), which work on 0 ... 255.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


def div2k_colour() -> ColourConfig:
    """0 ... 255 with DIV2K's mean colour taken off, as EDSR, RCAN and ArbSR were released."""
    r, g, b = DIV2K_MEAN
    return ColourConfig(_diagonal(255.0, (-255 * r, -255 * g, -255 * b)), _diagonal(1 / 255, (r, g, b)))


def recolour(x: Tensor, rows: Affine, dim: int) -> Tensor:
    """Apply an affine map to the three colours along ``dim`` of ``x``."""
    matrix = constants(rows, x)
    shape = [1] * x.dim()
    shape[dim] = 3
    offset = matrix[:, 3].reshape(shape)
    if all(value == 0 for i, row in enumerate(rows) for j, value in enumerate(row[:3]) if i != j):
        return x * matrix[:, :3].diagonal().reshape(shape) + offset
    return torch.tensordot(x, matrix[:, :3], dims=([dim], [1])).movedim(-1, dim) + offset
