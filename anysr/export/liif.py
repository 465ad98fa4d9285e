"""LIIF's decoder as a graph: the exact fast form of ``anysr/decoders/liif.py``, block by block."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.decoders import Liif
from anysr.export.loops import over_pixels
from anysr.export.places import Grid, ensemble_weights


class LiifGraph(nn.Module):
    """Answers rows of the grid from features; nothing has to be known of the whole image."""

    state_shapes: tuple[tuple[int, ...], ...] = ()

    def __init__(self, decoder: Liif) -> None:
        super().__init__()
        channels, first = decoder.feat_channels, decoder.layers[0]
        self.has_skip, self.fade_in = decoder.config.skip == "bilinear", decoder.config.fade_in
        weight = first.weight.detach()
        kernel = weight[:, : 9 * channels].reshape(-1, channels, 3, 3)
        self.kernel = nn.Parameter(kernel.contiguous(), requires_grad=False)
        self.bias = nn.Parameter(first.bias.detach().clone(), requires_grad=False)
        self.rel = nn.Parameter(weight[:, -4:-2].t().contiguous(), requires_grad=False)
        self.cell = nn.Parameter(weight[:, -2:].t().contiguous(), requires_grad=False)
        self.layers = cast(list[nn.Linear], nn.ModuleList(decoder.layers[1:]))

    def prepare(self, feat_1Dhw: Tensor, grid: Grid) -> tuple[Tensor, ...]:
        """Nothing."""
        return ()

    def answer(self, feat_1Dhw: Tensor, image_13hw: Tensor, state: tuple[Tensor, ...], grid: Grid) -> Tensor:
        """(3, R, W) in the network's colours."""
        ys, xs = grid.corners()
        given, first = grid.feature_rows(feat_1Dhw, ys.index, halo=1)
        table = F.conv2d(given, self.kernel, self.bias, padding=(0, 1))[0].permute(1, 2, 0).flatten(0, 1)
        table = table + grid.cell() @ self.cell
        layers, rel = [(layer.weight, layer.bias) for layer in self.layers], self.rel
        start_2R, rel_y, index_x, rel_x = (ys.index - first) * grid.lr_width, ys.rel, xs.index, xs.rel

        def decode(row_Q: Tensor, col_Q: Tensor) -> Tensor:
            index_22Q = start_2R.index_select(1, row_Q).unsqueeze(1) + index_x.index_select(1, col_Q)
            y_2Q, x_2Q = rel_y.index_select(1, row_Q), rel_x.index_select(1, col_Q)
            places = torch.stack([y_2Q.unsqueeze(1).expand(2, 2, -1), x_2Q.expand(2, 2, -1)], -1)
            hidden = torch.relu(torch.addmm(table.index_select(0, index_22Q.flatten()), places.flatten(0, 2), rel))
            for weight, bias in layers[:-1]:
                hidden = torch.relu(F.linear(hidden, weight, bias))
            answers_22Q3 = F.linear(hidden, *layers[-1]).view(2, 2, -1, 3)
            return (answers_22Q3 * ensemble_weights(y_2Q, x_2Q)[..., None]).sum((0, 1))

        rgb_3RW = over_pixels(decode, grid)
        if not self.has_skip:
            return rgb_3RW
        return rgb_3RW * self._residual_share(grid) + grid.bilinear(image_13hw)[0]

    def _residual_share(self, grid: Grid) -> Tensor:
        """See ``LiifConfig.residual_share``."""
        if not self.fade_in:
            return torch.ones(())
        return ((grid.scale.max() - 1) / self.fade_in).clamp(max=1).float()
