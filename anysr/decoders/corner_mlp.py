"""LIIF's network on scattered queries, with gradients, block by block.

What autograd would do, but in blocks whose activations stay in a core's cache: forward, each block goes
through all layers before the next begins, and backward it comes back through all of them. The matrix
products are the same; all that lies between them then costs little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from anysr.decoders.grid import block_pixels
from anysr.fast_linear import FastLinear
from anysr.native.fused import PAIR, TILE, PackedLayers, gradient_parts, linear, parts_for, weight_gradient


def corner_mlp(table_NK: Tensor, index_Q: Tensor, rel_Q2: Tensor, rel_2K: Tensor, layers: list[Tensor]) -> Tensor:
    """(Q, 3) of relu(table[index] + rel @ rel_2K) through linear layers with a ReLU between each two.

    Args:
        table_NK: the first layer's share of the features, in the precision of the products.
        index_Q: rows of it.
        rel_Q2: place among them, without gradient.
        rel_2K: the first layer's share of that.
        layers: weight, bias, weight, bias, …, the last to 3 channels.

    Raises:
        ValueError: a gradient is wanted of ``rel_Q2``; later, one of gradients.
    """
    if rel_Q2.requires_grad:
        raise ValueError("LIIF answers without gradients with respect to coord; give coord.detach()")
    given = [table_NK, index_Q, rel_Q2, rel_2K, *layers]
    if not torch.is_grad_enabled():  # the function is told whether they want gradients, not whether any are taken
        given = [t.detach() for t in given]
    return cast(Tensor, _CornerMlp.apply(*given))


class _CornerMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table_NK: Tensor, index_Q: Tensor, rel_Q2: Tensor, rel_2K: Tensor, *layers: Tensor) -> Tensor:
        dtype = table_NK.dtype
        weights, biases = ([t.to(dtype) for t in layers[part::2]] for part in (0, 1))
        rel_Q2, rel_2K = rel_Q2.to(dtype), rel_2K.to(dtype)
        kept: list[Tensor] = []
        answers, keeps = [], any(ctx.needs_input_grad)
        # An accelerator has no cache to stay in, and is the better filled the longer the blocks.
        step = 2 * block_pixels(table_NK) if table_NK.device.type == "cpu" else 2**20
        with torch.autocast(table_NK.device.type, enabled=False):
            hidden_layers = [FastLinear(w, b, "relu") for w, b in zip(weights[:-1], biases[:-1], strict=True)]
            for index, rel in zip(index_Q.split(step), rel_Q2.split(step), strict=True):
                hidden = torch.relu_(table_NK.index_select(0, index).addmm_(rel, rel_2K))
                activations = [hidden]
                for layer in hidden_layers:
                    hidden = layer(hidden)
                    activations.append(hidden)
                kept += activations if keeps else []
                answers.append(F.linear(hidden, weights[-1], biases[-1]).float())
        ctx.save_for_backward(index_Q, rel_Q2, rel_2K, *weights, *kept)
        ctx.num_layers, ctx.num_rows = len(weights), len(table_NK)
        ctx.dtypes = [t.dtype for t in layers]
        return torch.cat(answers)

    @staticmethod
    def backward(ctx: Any, grad_Q3: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # torch's once_differentiable lets torch.autograd.grad leave terms out
            raise ValueError("LIIF's gradients cannot be differentiated again; take them without create_graph=True")
        index_Q, rel_Q2, rel_2K, *saved = ctx.saved_tensors
        count = ctx.num_layers
        weights, kept = saved[:count], saved[count:]
        dtype, width = rel_2K.dtype, rel_2K.shape[1]
        # Sums over blocks in single precision, whatever the products' is.
        sums = [torch.zeros(w.shape, device=w.device) for w in weights]
        bias_sums = [torch.zeros(len(w), device=w.device) for w in weights]
        table_sum, rel_sum = grad_Q3.new_zeros(ctx.num_rows, width), grad_Q3.new_zeros(2, width)
        step = len(kept[0])
        back = [_plain_or_compiled(w.t().contiguous(), kept[0]) for w in weights]
        blocks = zip(index_Q.split(step), rel_Q2.split(step), grad_Q3.to(dtype).split(step), strict=True)
        for i, (index, rel, grad) in enumerate(blocks):
            for layer in range(count - 1, -1, -1):
                hidden = kept[i * count + layer]
                _add_gradients(sums[layer], bias_sums[layer], grad, hidden)
                grad = torch.ops.aten.threshold_backward(back[layer](grad), hidden, 0)
            _add_product(rel_sum, rel, grad)
            table_sum.scatter_add_(0, index[:, None].expand(-1, width), grad.float())
        pairs = zip(sums, bias_sums, strict=True)
        layers = (g.to(d) for g, d in zip((g for pair in pairs for g in pair), ctx.dtypes, strict=True))
        return table_sum.to(dtype), None, None, rel_sum, *layers


def _plain_or_compiled(weight_NK: Tensor, like_QK: Tensor) -> Callable[[Tensor], Tensor]:
    """The product with a weight, as fast as it can be had for rows like these."""
    bias = weight_NK.new_zeros(len(weight_NK))
    whole_tiles = not any(n % PAIR for n in weight_NK.shape)
    if not whole_tiles or gradient_parts(like_QK, len(like_QK)) is None or (parts := parts_for(like_QK)) is None:
        return FastLinear(weight_NK, bias)
    layer = PackedLayers([(weight_NK, bias)], parts)
    return lambda x_QK: linear(x_QK, layer, parts)


def _add_gradients(weight_NK: Tensor, bias_N: Tensor, grad_QN: Tensor, x_QK: Tensor) -> None:
    """Add a linear layer's gradients to their sums."""
    parts = gradient_parts(x_QK, len(x_QK)) if min(weight_NK.shape) >= TILE else None
    if parts is None:
        _add_product(weight_NK, grad_QN, x_QK)
        bias_N += grad_QN.sum(0, dtype=torch.float32)
    else:
        weight, bias = weight_gradient(x_QK[None, None], grad_QN[None, None], 1, parts)
        weight_NK += weight[..., 0]
        bias_N += bias


def _add_product(total_MK: Tensor, a_QM: Tensor, b_QK: Tensor) -> None:
    """Add aᵀ b to a sum."""
    if a_QM.dtype == total_MK.dtype:
        total_MK.addmm_(a_QM.t(), b_QK)
    else:
        total_MK += a_QM.t() @ b_QK
