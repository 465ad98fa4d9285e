"""What the baselines that make whole images share: one factor, strips, and pixels picked from the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from anysr.constants import constants
from anysr.decoders.grid import Rows
from anysr.geometry import PointQueries, Queries

# ITU-R BT.601; the weights sum to 1, so adding d to all three colours adds d to the luma.
_LUMA = (0.299, 0.587, 0.114)


def check_factor(lr_size: tuple[int, int], size: tuple[int, int], factor: int) -> None:
    """Refuse any enlargement but ``factor``."""
    height, width = lr_size
    if size != (height * factor, width * factor):
        raise ValueError(
            f"this network enlarges ×{factor} only: {height} × {width} to {height * factor} × {width * factor}, not to "
            f"{size[0]} × {size[1]}; use scale={factor}, or a network of any scale such as edsr-baseline-liif"
        )


def luma(rgb_B3HW: Tensor) -> Tensor:
    """(B, 1, H, W) brightness of RGB, in the same range."""
    weights = constants(_LUMA, rgb_B3HW).view(1, 3, 1, 1)
    return (rgb_B3HW * weights).sum(1, keepdim=True)


def pick_pixels(rgb_B3HW: Tensor, queries: PointQueries) -> Tensor:
    """(B, Q, 3): the pixel that each query lies in."""
    size = constants(rgb_B3HW.shape[-2:], rgb_B3HW, torch.float32)
    row, col = ((queries.coord + 1) / 2 * size).floor().long().unbind(-1)
    height, width = rgb_B3HW.shape[-2:]
    index_BQ = row.clamp(0, height - 1) * width + col.clamp(0, width - 1)
    return rgb_B3HW.flatten(2).transpose(1, 2).gather(1, index_BQ.unsqueeze(-1).expand(-1, -1, 3))


def in_strips(
    x_BCHW: Tensor, network: Callable[[Tensor], Tensor], factor: int, rows: int, halo: int
) -> Iterator[tuple[int, Tensor]]:
    """``network`` applied to strips of ``rows`` rows, exactly as to the whole: first row and answer of each.

    Args:
        x_BCHW: its input.
        network: convolutions that pad with zeros and enlarge ``factor`` times.
        factor: rows of output per row of input.
        rows: input rows a strip, which bound the memory.
        halo: input rows on either side that an output row depends on.
    """
    height = x_BCHW.shape[-2]
    for top in range(0, height, rows):
        first, bottom = max(0, top - halo), min(height, top + rows)
        strip = network(x_BCHW[..., first : min(height, bottom + halo), :])
        yield top * factor, strip[..., (top - first) * factor : (bottom - first) * factor, :]


def answer(strips_of_batch: Iterator[tuple[int, Tensor]], queries: Queries) -> Tensor:
    """(B, 3, H, W) of a grid or (B, Q, 3) of points, from the strips of the whole image."""
    rgb_B3HW = torch.cat([rgb for _, rgb in strips_of_batch], dim=-2)
    return pick_pixels(rgb_B3HW, queries) if isinstance(queries, PointQueries) else rgb_B3HW


def by_image(strips_of_batch: Iterator[tuple[int, Tensor]]) -> Iterator[Rows]:
    """The strips of a batch, one image's at a time."""
    for top, rgb_B3RW in strips_of_batch:
        for b, rgb_3RW in enumerate(rgb_B3RW):
            yield Rows(b, top, rgb_3RW)
