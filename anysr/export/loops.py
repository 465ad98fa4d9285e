"""Loops that stay loops in the graph, so that memory is that of one step, not of the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

from anysr.export.places import Grid

# Output pixels a step: enough to make a step's overhead small, few enough for a core's cache.
BLOCK_PIXELS = 1024


def over_pixels(answer: Callable[[Tensor, Tensor], Tensor], grid: Grid) -> Tensor:
    """(C, R, W) from a function of Q pixels' rows, among those asked for, and columns, that answers (Q, C)."""
    pixel_of, width, count = _pixels(grid), grid.width, grid.count

    def step(carry: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
        row_Q, col_Q, _ = pixel_of(block)
        return carry + 1, answer(row_Q, col_Q).t()

    _, stacked_nCQ = scan(step, torch.zeros((), dtype=torch.int64), torch.arange(_blocks(grid)))
    flat_CP = stacked_nCQ.transpose(0, 1).flatten(1)
    return flat_CP[:, : count * width].unflatten(1, (count, width))


def summed_over_pixels(
    terms: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]], zeros: tuple[Tensor, ...], grid: Grid
) -> Any:
    """The sums over the grid's pixels of what a function answers for some of them.

    It is given rows, columns, and 1 for what is a pixel or 0 for what only fills the block.
    """
    pixel_of = _pixels(grid)

    def step(total: tuple[Tensor, ...], block: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        parts = terms(*pixel_of(block))
        return tuple(t + p for t, p in zip(total, parts, strict=True)), torch.zeros(())

    return scan(step, zeros, torch.arange(_blocks(grid)))[0]


def over_rows(answer: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """(C, R, W) from a function that answers (C, W) for the r-th entry of each of ``rows``."""

    def step(carry: Tensor, row: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return carry + 1, answer(*row)

    _, stacked_RCW = scan(step, torch.zeros((), dtype=torch.int64), rows)
    return stacked_RCW.transpose(0, 1)


def _pixels(grid: Grid) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """A function from a block's number to rows and columns of its pixels, and 1 where there is one, else 0."""
    # Tensors, because loops cannot read numbers that are known only when the graph runs.
    one, place = torch.ones((), dtype=torch.int64), torch.arange(BLOCK_PIXELS)
    width, last = one * grid.width, one * grid.count * grid.width - 1

    def pixels(block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wanted = block * BLOCK_PIXELS + place
        pixel = torch.minimum(wanted, last)
        return pixel // width, pixel % width, (wanted <= last).float()

    return pixels


def _blocks(grid: Grid) -> int:
    return (grid.count * grid.width + BLOCK_PIXELS - 1) // BLOCK_PIXELS
