"""Feature interweaving: each layer is told the scale it works for (AnySR 2407.04241, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.fast_conv import fast_conv3x3
from anysr.fields import set_typed
from anysr.geometry import Pair, pair_tensor
from anysr.slimmable import SlimConv2d, prefix

_SUMMED_AT_ONCE = 2**24


@dataclass(frozen=True)
class InterweaveConfig:
    """How the scale pair enters the features.

    Attributes:
        interval: one scale pair is inserted after every ``interval`` channels.
        parity_sign: negate the pair when ten times the largest scale, rounded, is odd. AnySR's
            release does so; off by default here, because it makes the answer jump between scales
            that differ by 0.1.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (read by pydantic, not a field)

    interval: int = 16
    parity_sign: bool = False

    def __post_init__(self) -> None:
        set_typed(self, "interweave")
        if self.interval < 1:
            raise ValueError(f"interweave.interval must be at least 1 channel, got {self.interval}")


class Interweave(nn.Module):
    """A gate per channel, computed from the pooled features with the scale pair woven in.

    Global average pool -> the pair inserted after every ``interval`` channels -> 1x1 -> ReLU -> 1x1
    -> sigmoid. Narrow features use the leading columns of the first layer and the leading rows of
    the second; a trailing remainder of fewer than ``interval`` channels gets no pair.
    """

    def __init__(self, channels: int, hidden: int, config: InterweaveConfig) -> None:
        super().__init__()
        self.config = config
        self.fc1 = SlimConv2d(self._woven(channels), hidden, 1)
        self.fc2 = SlimConv2d(hidden, channels, 1)

    def forward(self, pooled_BC: Tensor, scale: Pair | Tensor) -> Tensor:
        """Gate in (0, 1), (B, C, 1, 1), from the means over the image of features of any width C."""
        woven_BCp = weave(pooled_BC, self._signed(scale), self.config.interval)
        hidden = torch.relu(_linear(self.fc1, woven_BCp, None))
        return torch.sigmoid(_linear(self.fc2, hidden, pooled_BC.shape[1]))[:, :, None, None]

    def macs(self, channels: int) -> int:
        """Multiply-adds per image for features of this width."""
        return (self._woven(channels) + channels) * self.fc1.out_channels

    def _woven(self, channels: int) -> int:
        return channels + 2 * (channels // self.config.interval)

    def _signed(self, scale: Pair | Tensor) -> Pair | Tensor:
        if isinstance(scale, Tensor):
            odd = torch.round(10 * scale.max()) % 2
            return scale * (1 - 2 * odd) if self.config.parity_sign else scale
        if self.config.parity_sign and round(10 * max(scale)) % 2 == 1:
            return -scale[0], -scale[1]
        return scale


def _linear(conv: SlimConv2d, x_BC: Tensor, num_out: int | None) -> Tensor:
    """A 1x1 convolution of a single pixel, without a convolution's overhead."""
    weight, bias = prefix(conv, x_BC.shape[1], num_out)
    return F.linear(x_BC, weight.flatten(1), bias)


def weave(pooled_BC: Tensor, scale: Pair | Tensor, interval: int) -> Tensor:
    """Insert the scale pair after every ``interval`` channels: (B, C) -> (B, C + 2 * (C // interval))."""
    batch, channels = pooled_BC.shape
    groups = channels // interval
    whole = pooled_BC[:, : groups * interval].reshape(batch, groups, interval)
    pair = pair_tensor(scale, pooled_BC).expand(batch, groups, 2)
    woven = torch.cat([whole, pair], dim=2).reshape(batch, -1)
    return torch.cat([woven, pooled_BC[:, groups * interval :]], dim=1)


def gated_conv3x3(conv: SlimConv2d, gate: Interweave | None, x_BCHW: Tensor, scale: Pair, width: int) -> Tensor:
    """relu(gate(mean(y)) * y), y the first ``width`` channels of ``conv``; relu(y) without a gate.

    The mean of a convolution is linear in sums of its input, so without gradients the gate is known
    beforehand and goes into the weights, of each image its own: per pixel it costs nothing.
    """
    if gate is None:
        return fast_conv3x3(x_BCHW, *prefix(conv, x_BCHW.shape[1], width), relu=True)
    if torch.compiler.is_exporting():  # elsewhere, constant weights are what makes a convolution fast
        y = conv(x_BCHW, width)
        return torch.relu(y * gate(y.mean((2, 3)), scale))
    if torch.is_grad_enabled():
        y = fast_conv3x3(x_BCHW, *prefix(conv, x_BCHW.shape[1], width))
        return torch.relu_(y * gate(_Mean.apply(y), scale))
    gated = [fast_conv3x3(x, *gated_weights(conv, gate, x, scale, width), relu=True) for x in one_by_one(x_BCHW)]
    return gated[0] if len(gated) == 1 else torch.cat(gated)


def gated_weights(
    conv: SlimConv2d, gate: Interweave | None, x_1CHW: Tensor, scale: Pair, width: int
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the first ``width`` channels of a 3x3 convolution, times the gate of one image.

    Args:
        conv: the convolution.
        gate: the gate on what it answers, if any.
        x_1CHW: the whole image's input to it.
        scale: (s_h, s_w).
        width: channels.
    """
    weight, bias = prefix(conv, x_1CHW.shape[1], width)
    if gate is None:
        return weight, bias
    pooled = (tap_sums(x_1CHW).flatten(1) @ weight.flatten(1).float().t()) / x_1CHW[0, 0].numel()
    gate_K1 = gate((pooled + bias).to(weight.dtype), scale)[0, ..., 0]
    return weight * gate_K1[..., None, None], bias * gate_K1[:, 0]


class _Mean(torch.autograd.Function):
    """(B, C, H, W) to (B, C).

    Its gradient is handed back without being spread out in memory, where it would also lie channels
    first: adding it to the other gradient of the same features takes half the time so.
    """

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor) -> Tensor:
        ctx.shape = x_BCHW.shape
        return x_BCHW.mean(dim=(2, 3))

    @staticmethod
    def backward(ctx: Any, grad_BC: Tensor) -> Tensor:
        pixels = ctx.shape[2] * ctx.shape[3]
        return (grad_BC / pixels)[..., None, None].expand(ctx.shape)


def one_by_one(x_BCHW: Tensor) -> tuple[Tensor, ...]:
    """Each image as a batch of one; unlike ``x[i][None]`` it stays channels last."""
    return x_BCHW.split_with_sizes([1] * len(x_BCHW))


def tap_sums(x_BCHW: Tensor) -> Tensor:
    """(B, C, 3, 3) float32: sum of what each tap of a same-padded 3x3 convolution reads.

    The first row of taps never reads the last row of the image, and so on.
    """
    first, last = x_BCHW[:, :, 0].float(), x_BCHW[:, :, -1].float()
    left, right = x_BCHW[..., 0].float(), x_BCHW[..., -1].float()
    none = torch.zeros_like(first[..., 0])
    rows = torch.stack([last.sum(2), none, first.sum(2)], dim=2)
    cols = torch.stack([right.sum(2), none, left.sum(2)], dim=2)
    ends = [-1, 0]
    corners = F.pad(x_BCHW[:, :, ends][..., ends].float(), (0, 1, 0, 1))[..., [0, 2, 1], :][..., [0, 2, 1]]
    # In parts, because torch makes a float32 copy of what it sums.
    rows_at_once = max(1, _SUMMED_AT_ONCE // x_BCHW[:, :, 0].numel())
    total = torch.stack([part.sum((2, 3), dtype=torch.float32) for part in x_BCHW.split(rows_at_once, 2)]).sum(0)
    return total[..., None, None] - rows[..., None] - cols[..., None, :] + corners
