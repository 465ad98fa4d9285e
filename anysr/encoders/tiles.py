"""Encoding a large image in bounded memory, with the answer of the whole.

Layer by layer: a block of the encoder is applied to one window after the other, each read with as
many more pixels on every side as the block looks at, and its answers replace its input in the one
map that is kept. Whatever averages over the image (AnySR's gates, channel attention) is taken from
that map, which always holds the whole image. So nothing is approximated; the price is the windows'
rims, computed twice: (t + 2 r)^2 / t^2 for windows of t pixels and a block that looks r far.

Kept are one map of the trunk's channels for EDSR, three for RCAN, and for RDN two, plus two growths'
where it is interwoven.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Tile = tuple[int, int]
TileChoice = int | Sequence[int] | Literal["auto"] | None

# What an encoder's activations may take beside the maps that are kept, in bytes. Larger images are
# cut into windows; an accelerator, which wants to be filled, may take more.
WINDOW_BYTES = 192 * 2**20
_ACCELERATOR_FACTOR = 16
_SMALLEST_PX = 32


@dataclass(frozen=True)
class Window:
    """The rows and columns of a map that a network is given."""

    rows: slice
    cols: slice

    def of(self, map_1Chw: Tensor) -> Tensor:
        """This part of a map, laid out for convolutions."""
        return map_1Chw[..., self.rows, self.cols].contiguous(memory_format=torch.channels_last)


Network = Callable[[Tensor, Window], Tensor]
Progress = Callable[[float], None]  # told which share is done


def new_map(channels: int, like_13hw: Tensor) -> Tensor:
    """(1, channels, h, w), not filled."""
    shape = (1, channels, *like_13hw.shape[-2:])
    return torch.empty(shape, dtype=like_13hw.dtype, device=like_13hw.device, memory_format=torch.channels_last)


def sweep(source_1Chw: Tensor, network: Network, tile: Tile, halo: int, out: Sequence[Tensor] = ()) -> None:
    """Apply a network to a map, window by window.

    Args:
        source_1Chw: the map.
        network: called with a window of the map and its place; answers for every pixel of it. The
            outermost ``halo`` pixels of an answer are dropped, but for those at the image's border.
        tile: (rows, columns) that a window stands for.
        halo: how far the network looks.
        out: maps that the answer's channels are written to in turn; ``source`` itself if none are
            given, or among them.
    """
    height, width = source_1Chw.shape[-2:]
    targets = out or (source_1Chw,)
    sizes = [target.shape[1] for target in targets]
    above = source_1Chw[..., :0, :]
    for top in range(0, height, tile[0]):
        bottom = min(height, top + tile[0])
        first, last = max(0, top - halo), min(height, bottom + halo)
        # A copy, and the rows above from the one before: the map's own may have been replaced.
        rows = new_map(source_1Chw.shape[1], source_1Chw[..., first:last, :])
        rows[..., : top - first, :] = above
        rows[..., top - first :, :] = source_1Chw[..., top:last, :]
        above = rows[..., max(0, bottom - halo) - first : bottom - first, :]
        for left in range(0, width, tile[1]):
            right = min(width, left + tile[1])
            start, stop = max(0, left - halo), min(width, right + halo)
            window = rows[..., start:stop].contiguous(memory_format=torch.channels_last)
            answer = network(window, Window(slice(first, last), slice(start, stop)))
            inner = answer[..., top - first : bottom - first, left - start : right - start]
            for target, part in zip(targets, inner.split_with_sizes(sizes, 1), strict=True):
                target[..., top:bottom, left:right] = part


def resolve_tile(choice: TileChoice, lr_size: tuple[int, int], channels: int, like: Tensor) -> Tile | None:
    """Rows and columns of a window; None computes the image whole.

    Args:
        choice: the caller's.
        lr_size: (h, w).
        channels: that the encoder holds for each pixel of a window at once.
        like: of the type and on the device of the features.

    Raises:
        ValueError: a tile that is not one or two positive whole numbers.
    """
    if choice is None:
        return None
    if not is_auto(choice):
        tile = _checked(choice)
        return None if tile[0] >= lr_size[0] and tile[1] >= lr_size[1] else tile
    budget = WINDOW_BYTES * (1 if like.device.type == "cpu" else _ACCELERATOR_FACTOR)
    pixel_bytes = channels * like.element_size()
    if lr_size[0] * lr_size[1] * pixel_bytes <= budget:
        return None
    # Half for the window's activations, half for the strip of rows that windows are cut from.
    side = max(_SMALLEST_PX, math.isqrt(budget // 2 // pixel_bytes))
    rows = min(side, max(_SMALLEST_PX, budget // 2 // (lr_size[1] * pixel_bytes)))
    return rows, min(lr_size[1], max(_SMALLEST_PX, budget // 2 // pixel_bytes // rows))


def even(tile: Tile) -> Tile:
    """Rounded up to even sides."""
    return tile[0] + tile[0] % 2, tile[1] + tile[1] % 2


def is_auto(choice: TileChoice) -> bool:
    """Whether the caller left it to us; arrays do not compare with a text."""
    return isinstance(choice, str) and choice == "auto"


def _checked(choice: Any) -> Tile:
    try:
        sides = [operator.index(v) for v in (choice if hasattr(choice, "__len__") else (choice, choice))]
    except TypeError:
        sides = []
    if isinstance(choice, bool | str) or len(sides) != 2 or min(sides) < 1:
        raise ValueError(
            'tile must be "auto", None, or LR pixels per side of at least 1, one number or (rows, columns), got '
            f"{choice!r}"
        )
    return sides[0], sides[1]
