"""Meta-SR's decoder as a graph: the exact fast form of ``anysr/decoders/metasr.py``, block by block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.decoders import MetaSr
from anysr.export.loops import over_pixels
from anysr.export.places import Grid


class MetaSrGraph(nn.Module):
    """Answers rows of the grid from features; nothing has to be known of the whole image."""

    state_shapes: tuple[tuple[int, ...], ...] = ()

    def __init__(self, decoder: MetaSr) -> None:
        super().__init__()
        self.hidden = decoder.config.hidden
        self.kernel = nn.Parameter(decoder._kernel(self.hidden).detach().clone(), requires_grad=False)
        self.first = decoder.layers[0]

    def prepare(self, feat_1Dhw: Tensor, grid: Grid) -> tuple[Tensor, ...]:
        """Nothing."""
        return ()

    def answer(self, feat_1Dhw: Tensor, image_13hw: Tensor, state: tuple[Tensor, ...], grid: Grid) -> Tensor:
        """(3, R, W) in the network's colours."""
        ys, xs = grid.containing()
        given, first = grid.feature_rows(feat_1Dhw, ys.index, halo=1)
        table = F.conv2d(given, self.kernel, padding=(0, 1))[0].permute(1, 2, 0).flatten(0, 1)
        weight, hidden = self.first.weight, self.hidden
        by_row_RJ = ys.rel[:, None] * weight[:, 0] + (self.first.bias + weight[:, 2] * (grid.cell()[0] / 2))
        by_col_WJ, start_R, index_x = xs.rel[:, None] * weight[:, 1], (ys.index - first) * grid.lr_width, xs.index

        def decode(row_Q: Tensor, col_Q: Tensor) -> Tensor:
            hidden_QJ = torch.relu(by_row_RJ.index_select(0, row_Q) + by_col_WJ.index_select(0, col_Q))
            index_Q = start_R.index_select(0, row_Q) + index_x.index_select(0, col_Q)
            z_Q3J = table.index_select(0, index_Q).view(-1, 3, hidden + 1)
            return torch.matmul(z_Q3J[..., :-1], hidden_QJ[..., None])[..., 0] + z_Q3J[..., -1]

        return over_pixels(decode, grid)
