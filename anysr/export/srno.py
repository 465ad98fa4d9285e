"""SRNO's decoder as a graph: attention known beforehand, then block by block.

As in ``anysr/decoders/srno.py`` attention is one small matrix per head, a mean over the image, and is
folded into the layer behind it. Nothing is kept between the passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.decoders import Srno
from anysr.decoders.galerkin import NORM_EPS, Moments
from anysr.export.loops import over_pixels, summed_over_pixels
from anysr.export.places import Grid, ensemble_weights


class SrnoGraph(nn.Module):
    """State: for each attention layer (K, K + 1), its first linear layer with attention inside, and the bias."""

    def __init__(self, decoder: Srno) -> None:
        super().__init__()
        self.width, self.head = decoder.config.hidden, decoder.config.head_channels
        self.state_shapes = ((decoder.config.num_blocks, self.width, self.width + 1),)
        self.blocks = decoder.blocks
        self.lift, self.bias = _frozen(decoder.conv00.weight.flatten(1)), _linear(decoder.conv00).bias
        self.fc1, self.fc2 = _linear(decoder.fc1), _linear(decoder.fc2)
        second = nn.ModuleList(_linear(block.o_proj2) for block in decoder.blocks)
        self.second = cast(list[nn.Linear], second)
        keys_values = nn.ModuleList(_layer(*block.keys_values_weight(self.width)) for block in decoder.blocks)
        self.keys_values = cast(list[nn.Linear], keys_values)

    def prepare(self, feat_1Dhw: Tensor, grid: Grid) -> tuple[Tensor, ...]:
        """The attention of each block."""
        known: list[Tensor] = []
        queries = _Queries(self, feat_1Dhw, grid)
        for block, keys_values in zip(self.blocks, self.keys_values, strict=True):
            moments = self._moments(queries, known, keys_values)
            mix = block.mix(moments, self.width)
            known.append(torch.cat([mix.w1[0], mix.b1[0][:, None]], dim=1))
        return (torch.stack(known),)

    def answer(self, feat_1Dhw: Tensor, image_13hw: Tensor, state: tuple[Tensor, ...], grid: Grid) -> Tensor:
        """(3, R, W) in the network's colours."""
        queries, known = _Queries(self, feat_1Dhw, grid), list(state[0].unbind())
        fc1, fc2 = queries.linear(known, self.fc1), (self.fc2.weight, self.fc2.bias)

        def decode(row_Q: Tensor, col_Q: Tensor) -> Tensor:
            return F.linear(F.gelu(fc1(row_Q, col_Q)), *fc2)

        return over_pixels(decode, grid) + grid.bilinear(image_13hw)[0]

    def _moments(self, queries: _Queries, known: list[Tensor], keys_values: nn.Linear) -> Moments:
        heads, head = self.width // self.head, self.head
        centred = queries.linear(known, keys_values)

        def terms(row_Q: Tensor, col_Q: Tensor, exists_Q: Tensor) -> tuple[Tensor, Tensor]:
            centred_Q2Nc = centred(row_Q, col_Q).view(-1, 2 * heads, head)
            # Without a last axis of 1, over which arithmetic is slow.
            deviation_Q2N = ((centred_Q2Nc * centred_Q2Nc).sum(-1) * (1 / (head - 1))).sqrt()
            normed = centred_Q2Nc * (exists_Q[:, None] / (deviation_Q2N + NORM_EPS))[..., None]
            keys, values = normed[:, :heads], normed[:, heads:]
            return torch.matmul(keys.permute(1, 2, 0), values.transpose(0, 1)), normed.sum(0)

        zeros = torch.zeros(heads, head, head), torch.zeros(2 * heads, head)
        product, sums = summed_over_pixels(terms, zeros, queries.grid)
        height, width = queries.grid.sizes()
        return Moments(product[None], sums[None], cast(int, (height * width).float()))


class _Queries:
    """The pixels of a grid, each with the hidden states that the attention known so far makes of it."""

    def __init__(self, graph: SrnoGraph, feat_1Dhw: Tensor, grid: Grid) -> None:
        self.graph, self.grid = graph, grid
        self.table = feat_1Dhw[0].permute(1, 2, 0).flatten(0, 1)
        self.ys, self.xs = grid.corners()
        # The columns of the lift are rel of the corners, their features, and the cell.
        self.offset = graph.bias + graph.lift[:, -2:] @ grid.cell()

    def linear(self, known: list[Tensor], layer: nn.Linear) -> Callable[[Tensor, Tensor], Tensor]:
        """A function from rows and columns of Q pixels to a linear layer of their states."""
        given, weight, bias = self._lifted(), layer.weight, layer.bias
        lift, offset = self.graph.lift[:, :-2], self.offset
        if not known:
            lift, offset = weight @ lift, weight @ offset + bias
        second = zip(known, self.graph.second, strict=False)
        # Copies, because tensors that a loop reads must not share memory.
        layers = [(w[:, :-1].contiguous(), w[:, -1].clone(), s.weight, s.bias) for w, s in second]

        def answer(row_Q: Tensor, col_Q: Tensor) -> Tensor:
            x_QK = torch.addmm(offset, given(row_Q, col_Q), lift.t())
            for w1, b1, w2, b2 in layers:
                x_QK = x_QK + F.linear(F.gelu(F.linear(x_QK, w1, b1)), w2, b2)
            return F.linear(x_QK, weight, bias) if layers else x_QK

        return answer

    def _lifted(self) -> Callable[[Tensor, Tensor], Tensor]:
        """A function from rows and columns of Q pixels to what the lift reads, (Q, 8 + 4 D)."""
        table, index_x, rel_x, rel_y = self.table, self.xs.index, self.xs.rel, self.ys.rel
        start_2R = (self.ys.index - self.grid.first) * self.grid.lr_width

        def given(row_Q: Tensor, col_Q: Tensor) -> Tensor:
            index_22Q = start_2R.index_select(1, row_Q).unsqueeze(1) + index_x.index_select(1, col_Q)
            y_2Q, x_2Q = rel_y.index_select(1, row_Q), rel_x.index_select(1, col_Q)
            corners_4QD = table.index_select(0, index_22Q.flatten()).unflatten(0, (4, -1))
            weighted_4QD = corners_4QD * ensemble_weights(y_2Q, x_2Q).flatten(0, 1)[..., None]
            rel_222Q = torch.stack([y_2Q.unsqueeze(1).expand(2, 2, -1), x_2Q.expand(2, 2, -1)], 2)
            return torch.cat([rel_222Q.flatten(0, 2).t(), weighted_4QD.transpose(0, 1).flatten(1)], dim=1)

        return given


def _frozen(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().clone().contiguous(), requires_grad=False)


def _layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = _frozen(weight), _frozen(bias)
    return layer


def _linear(conv: nn.Conv2d) -> nn.Linear:
    """A 1x1 convolution as a linear layer."""
    assert conv.bias is not None
    return _layer(conv.weight.flatten(1), conv.bias)
