"""Galerkin attention as SRNO uses it (2303.02584), split where blocks can meet.

Per head, softmax-free: out = q (k^T v) / n with k and v normalised over the head's channels, n the
number of queries. ``Moments`` are the sums over queries; ``Mix`` is the whole layer once they are
known. With M = k^T v / n the projection after attention reads
W1 (x + M^T (Wq x + bq)) + b1, one linear layer of x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.fast_linear import FastLinear
from anysr.native import gpu
from anysr.slimmable import SlimConv2d, prefix

_PIECE = 512  # queries
NORM_EPS = 1e-5  # added to the deviation that keys and values are divided by


@dataclass(frozen=True)
class Moments:
    """Sums over queries of normalised keys and values, before the norms' own weight and bias.

    Attributes:
        product: (B, N, c, c) sum of k^T v for each of N heads of c channels, float32.
        sums: (B, 2N, c) sums of the N keys, then of the N values.
        count: number of queries.
    """

    product: Tensor
    sums: Tensor
    count: int

    @classmethod
    def zero(cls, batch: int, width: int, head: int, device: torch.device) -> Moments:
        """Nothing summed yet."""
        heads = width // head
        product = torch.zeros(batch, heads, head, head, dtype=torch.float32, device=device)
        return cls(product, torch.zeros(batch, 2 * heads, head, dtype=torch.float32, device=device), 0)

    def __add__(self, other: Moments) -> Moments:
        product = self.product + other.product
        return Moments(product, self.sums + other.sums, self.count + other.count)


class _Standardise(torch.autograd.Function):
    """x / (s + 1e-5) over the last axis, s the unbiased standard deviation of x, whose mean is 0.

    Written out because the backward pass by parts goes over memory twice as often.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        deviation, inverse = _deviation(x)
        ctx.save_for_backward(x, deviation, inverse)
        return x * inverse

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, deviation, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again, which what was saved does not know of
            deviation, inverse = _deviation(x)
        along = (x * grad).sum(-1, keepdim=True) * inverse.square()
        # Where the deviation vanishes so does x, and with it the second term.
        along = along / (deviation * (x.shape[-1] - 1)).clamp_min(torch.finfo(x.dtype).tiny)
        return (grad * inverse).addcmul_(x, along, value=-1)


def _deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """The standard deviation, and what standardises: 1 / (s + 1e-5)."""
    deviation = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * (x.shape[-1] - 1) ** -0.5
    return deviation, (deviation + NORM_EPS).reciprocal_()


def _products(keys_BQNc: Tensor, values_BQNc: Tensor) -> Tensor:
    """(B, N, c, c): each head's k^T v, summed over the queries."""
    return torch.matmul(keys_BQNc.permute(0, 2, 3, 1), values_BQNc.transpose(1, 2))


def _products_in_pieces(keys_BQNc: Tensor, values_BQNc: Tensor) -> Tensor:
    """The same from products of all heads with all, over pieces of the queries that are multiplied side by side."""
    batch, count, heads, head = keys_BQNc.shape
    whole = count - count % _PIECE
    every = keys_BQNc.new_zeros(batch, heads * head, heads * head)
    for start, stop, piece in ((0, whole, _PIECE), (whole, count, count - whole)):
        if stop > start:
            keys, values = (t[:, start:stop].unflatten(1, (-1, piece)).flatten(3) for t in (keys_BQNc, values_BQNc))
            every += torch.matmul(keys.transpose(2, 3), values).sum(1)
    own = every.view(batch, heads, head, heads, head).diagonal(dim1=1, dim2=3)
    return own.permute(0, 3, 1, 2)


class HeadNorm(nn.Module):
    """Weight and bias of a layer norm over each head's channels, shaped as in SRNO's release."""

    def __init__(self, heads: int, head_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, 1, head_channels))
        self.bias = nn.Parameter(torch.zeros(heads, 1, head_channels))


class Galerkin(nn.Module):
    """Attention, then two linear layers, plus the input. Rows of ``qkv_proj`` are (q, k, v) per head."""

    def __init__(self, width: int, head_channels: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.qkv_proj = SlimConv2d(width, 3 * width, 1)
        self.o_proj1 = SlimConv2d(width, width, 1)
        self.o_proj2 = SlimConv2d(width, width, 1)
        self.kln = HeadNorm(width // head_channels, head_channels)
        self.vln = HeadNorm(width // head_channels, head_channels)

    def keys_values_weight(self, width: int) -> tuple[Tensor, Tensor]:
        """Linear layer to all keys, then all values, with each head's mean already subtracted."""
        weight, bias = self._qkv(width)
        weight, bias = weight[:, 1:], bias[:, 1:]
        weight, bias = weight - weight.mean(2, keepdim=True), bias - bias.mean(2, keepdim=True)
        return weight.transpose(0, 1).reshape(2 * width, width), bias.transpose(0, 1).reshape(-1)

    def keys_values(self, x_BQK: Tensor, width: int) -> Tensor:
        """(B, Q, 2K) centred keys and values."""
        return F.linear(x_BQK, *self.keys_values_weight(width))

    def moments(self, centred_BQ2K: Tensor, width: int) -> Moments:
        """Normalise by the unbiased standard deviation (plus 1e-5) and sum over the queries.

        Without gradients it writes over what it is given.
        """
        batch, count, _ = centred_BQ2K.shape
        heads, head = width // self.head_channels, self.head_channels
        if head == gpu.HEAD and (kernels := gpu.gpu_kernels(centred_BQ2K)) is not None:
            each = [gpu.head_moments(kernels, rows.contiguous()) for rows in centred_BQ2K]
            return Moments(torch.stack([p for p, _ in each]), torch.stack([s for _, s in each]), count)
        centred = centred_BQ2K.float().view(batch, count, 2 * heads, head)
        if torch.is_grad_enabled():
            normed = cast(Tensor, _Standardise.apply(centred))
        else:
            normed = centred.mul_(_deviation(centred)[1])
        keys, values = torch.split(normed, heads, dim=2)
        # A few products over very many rows leave most of an accelerator idle.
        summed = _products if centred.device.type == "cpu" or torch.is_grad_enabled() else _products_in_pieces
        with torch.autocast(centred.device.type, enabled=False):
            return Moments(summed(keys, values), normed.sum(1), count)

    def mix(self, moments: Moments, width: int) -> Mix:
        """The layer as two linear ones and a skip, for the queries that ``moments`` were taken over."""
        heads, head = width // self.head_channels, self.head_channels
        weight_NcK, bias_Nc = (t[:, 0].float() for t in self._qkv(width))
        w1, b1 = (t.float() for t in prefix(self.o_proj1, width, width))
        with torch.autocast(w1.device.type, enabled=False):
            mean_BNcc = self._normalised(moments, heads).transpose(2, 3) / moments.count
            attended = torch.matmul(mean_BNcc, weight_NcK).flatten(1, 2)
            offset = torch.matmul(mean_BNcc, bias_Nc[..., None]).flatten(1)
            w1 = w1.flatten(1)
            folded = w1 + torch.matmul(w1, attended)
            shift = b1 + F.linear(offset, w1)
        assert offset.shape[1] == heads * head
        w2, b2 = prefix(self.o_proj2, width, width)
        return Mix(folded, shift, w2.flatten(1), b2)

    def _normalised(self, moments: Moments, heads: int) -> Tensor:
        """(B, N, c, c): sum of k^T v with the norms' weights and biases, from the sums without them."""
        wk, bk, wv, bv = (t[:heads].float() for n in (self.kln, self.vln) for t in (n.weight, n.bias))
        keys, values = torch.split(moments.sums, heads, dim=1)
        wk, bk = wk.transpose(1, 2), bk.transpose(1, 2)
        with_weights = wk * moments.product * wv + wk * keys[..., None] * bv + bk * values[..., None, :] * wv
        return with_weights + moments.count * bk * bv

    def _qkv(self, width: int) -> tuple[Tensor, Tensor]:
        """Weight (N, 3, c, K) and bias (N, 3, c), q, k and v within each head."""
        weight, bias = prefix(self.qkv_proj, width, 3 * width)
        shape = (width // self.head_channels, 3, self.head_channels)
        return weight.reshape(*shape, width), bias.view(shape)


@dataclass(frozen=True)
class Mix:
    """x + W2 GELU(W1 x + b1) + b2, with attention inside W1, which differs from image to image."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    def __call__(self, x_BQK: Tensor) -> Tensor:
        """(B, Q, K), with gradients, a whole batch at once."""
        w1, b1 = self.w1.to(x_BQK.dtype), self.b1.to(x_BQK.dtype)
        hidden = F.gelu(torch.baddbmm(b1[:, None], x_BQK, w1.transpose(1, 2)))
        return x_BQK + F.linear(hidden, self.w2, self.b2)

    def prepared(self, dtype: torch.dtype) -> PreparedMix:
        """The same for the one image of a batch, ready for many blocks."""
        return PreparedMix(self, dtype)


class PreparedMix:
    """:class:`Mix` of one image for inference."""

    def __init__(self, mix: Mix, dtype: torch.dtype) -> None:
        self.weight, self.bias = mix.w1[0], mix.b1[0]
        self._first = FastLinear(self.weight.to(dtype), self.bias.to(dtype), "gelu")
        self._second = FastLinear(mix.w2.to(dtype), mix.b2.to(dtype))

    def __call__(self, x_QK: Tensor) -> Tensor:
        """(Q, K)."""
        return self.finish(x_QK, self._first(x_QK))

    def finish(self, x_QK: Tensor, hidden_QK: Tensor) -> Tensor:
        """What follows the GELU."""
        return self._second(hidden_QK).add_(x_QK)
