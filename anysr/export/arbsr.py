"""ArbSR's upsampler as a graph: the exact fast form of ``anysr/decoders/arbsr.py``, an output row at a time.

Offsets and routing are computed for every pixel: that they repeat is not known when the graph is made.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.decoders import ArbSr
from anysr.decoders.arbsr import FLOOR_SHIFT, NUM_EXPERTS, TAPS
from anysr.export.loops import over_rows
from anysr.export.places import Grid


class ArbSrGraph(nn.Module):
    """Answers rows of the grid from features; nothing has to be known of the whole image."""

    state_shapes: tuple[tuple[int, ...], ...] = ()

    def __init__(self, decoder: ArbSr) -> None:
        super().__init__()
        taps_27D = decoder.tail.weight.permute(2, 3, 0, 1).reshape(3 * TAPS, -1)
        compress = decoder.compress.flatten(0, 1)
        table = torch.cat([taps_27D, compress])[:, :, None, None]
        mixed = taps_27D @ decoder.expand.transpose(0, 1).reshape(decoder.feat_channels, -1)
        self.table, self.mixed = (nn.Parameter(t.detach().clone(), requires_grad=False) for t in (table, mixed))
        layers = decoder.body0, decoder.body2, decoder.offset, decoder.routing
        self.routing = cast(list[nn.Conv2d], nn.ModuleList(layers))
        assert decoder.tail.bias is not None
        self.tail_bias = nn.Parameter(decoder.tail.bias.detach().clone(), requires_grad=False)

    def prepare(self, feat_1Dhw: Tensor, grid: Grid) -> tuple[Tensor, ...]:
        """Nothing."""
        return ()

    def answer(self, feat_1Dhw: Tensor, image_13hw: Tensor, state: tuple[Tensor, ...], grid: Grid) -> Tensor:
        """(3, R, W) in the network's colours."""
        table = F.conv2d(feat_1Dhw, self.table)[0].permute(1, 2, 0).flatten(0, 1)
        lr_size, inverse_yx = grid.lr_sizes(), (1 / grid.scale).float()
        body0, body2, offset, routing = ((m.weight.flatten(1), m.bias) for m in self.routing)
        mixed, bias = self.mixed, self.tail_bias
        # One more row on either side, for the last convolution, which sees zeros beyond the image.
        rows = torch.arange(grid.count + 2) + grid.top - 1
        ys, frac_y = _project(rows.double(), grid.scale[0])
        xs, frac_x = _project(torch.arange(grid.width).double(), grid.scale[1])
        inside = ((rows >= 0) & (rows < grid.height)).float()

        def taps(y: Tensor, frac: Tensor, exists: Tensor) -> Tensor:
            columns = [inverse_yx[1].expand_as(frac_x), inverse_yx[0].expand_as(frac_x), frac.expand_as(frac_x), frac_x]
            body = torch.relu(F.linear(torch.relu(F.linear(torch.stack(columns, 1), *body0)), *body2))
            shift, routes_WE = F.linear(body, *offset).double(), torch.sigmoid(F.linear(body, *routing))
            sampled = _sample(table, y + shift[:, 1], xs + shift[:, 0], lr_size)
            through, compressed = sampled[:, : 3 * TAPS], sampled[:, 3 * TAPS :]
            mixed_WK = (compressed.view(len(routes_WE), NUM_EXPERTS, -1) * routes_WE[..., None]).sum(1)
            spread = (routes_WE[..., None] * mixed_WK[:, None]).flatten(1)
            taps_W333 = ((through + F.linear(spread, mixed)) * exists).view(-1, 3, 3, 3)
            left, middle, right = F.pad(taps_W333, (0, 0, 0, 0, 0, 0, 1, 1)).unbind(2)
            return (left[:-2] + middle[1:-1] + right[2:]).flatten(1).t()

        by_row_33RW = over_rows(taps, ys, frac_y.float(), inside).unflatten(0, (3, 3))
        above, here, below = by_row_33RW.unbind(0)
        return above[:, :-2] + here[:, 1:-1] + below[:, 2:] + bias[:, None, None]


def _project(index: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """LR positions, in pixels, and fractional offsets of HR indices, the latter float32."""
    position = (index + 0.5) / scale
    return position - 0.5, (position - torch.floor(position + FLOOR_SHIFT) - 0.5).float()


def _sample(table_NC: Tensor, y: Tensor, x: Tensor, lr_size: tuple[Tensor, Tensor]) -> Tensor:
    """(W, C): bilinear between rows of the table, zeros outside the image; see ``decoders.arbsr._places``."""
    rows, cols = lr_size
    y, x = _place(y, rows), _place(x, cols)
    top, left = y.floor(), x.floor()
    total = torch.zeros(())
    for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
        for col, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
            inside = (row >= 0) & (row <= rows - 1) & (col >= 0) & (col <= cols - 1)
            index = row.clamp(min=0).minimum(rows - 1) * cols + col.clamp(min=0).minimum(cols - 1)
            total = total + table_NC.index_select(0, index.long()) * ((weight_y * weight_x) * inside).float()[:, None]
    return total


def _place(position: Tensor, size: Tensor) -> Tensor:
    """LR position p is read at p n / (n - 1) - 1/2, the only pixel at its centre."""
    return torch.where(size > 1, position * size / (size - 1).clamp(min=1) - 0.5, torch.zeros_like(position))
