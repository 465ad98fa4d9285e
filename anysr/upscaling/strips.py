"""The answer of a network strip by strip, so that a large one is never held in floats as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from anysr.decoders.grid import Rows, assemble
from anysr.encoders.tiles import Progress, TileChoice
from anysr.geometry import Target
from anysr.model import AnySR

NUM_SYMMETRIES = 8


class NotFiniteError(ArithmeticError):
    """An answer holds NaN or infinity."""


def answer_strips(
    model: AnySR,
    lr_13hw: Tensor,
    target: Target,
    subnet: int,
    tile: TileChoice,
    *,
    ensemble: bool,
    progress: Progress | None = None,
) -> Iterator[Rows]:
    """Rows of the enlargement in [0, 1], float32, not clamped.

    ``progress`` is told which share is done of what comes before the first row.

    Raises:
        NotFiniteError: when the strip that is not finite is reached.
    """
    if ensemble:
        strips = _ensemble(model, lr_13hw, target, subnet, tile, progress)
    else:
        strips = model.strips(lr_13hw, target.scale, target.size, subnet=subnet, tile=tile, progress=progress)
    for rows in strips:
        if not bool(torch.isfinite(rows.rgb).all()):
            raise NotFiniteError
        yield rows


def _ensemble(
    model: AnySR, lr: Tensor, target: Target, subnet: int, tile: TileChoice, progress: Progress | None
) -> Iterator[Rows]:
    """The mean over the square's eight symmetries (EDSR, section 3.4: "geometric self-ensemble")."""
    total = torch.zeros(3, *target.size, device=lr.device)
    for number in range(NUM_SYMMETRIES):
        turned, size, scale = _turn(lr, number), target.size, target.scale
        if number & 4:
            size, scale = (size[1], size[0]), (scale[1], scale[0])
        pieces = model.strips(turned, scale, size, subnet=subnet, tile=tile)
        total += _turn_back(assemble(pieces, 1, size, lr.device), number)[0]
        if progress is not None:
            progress((number + 1) / NUM_SYMMETRIES)
    yield Rows(0, 0, total / NUM_SYMMETRIES)


def _turn(image: Tensor, number: int) -> Tensor:
    """Mirror rows (1), columns (2), and swap the axes (4)."""
    image = image.flip(-2) if number & 1 else image
    image = image.flip(-1) if number & 2 else image
    return image.transpose(-1, -2).contiguous() if number & 4 else image


def _turn_back(image: Tensor, number: int) -> Tensor:
    image = image.transpose(-1, -2) if number & 4 else image
    image = image.flip(-1) if number & 2 else image
    return image.flip(-2) if number & 1 else image
