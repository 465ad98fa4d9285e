"""Feature interweaving: each layer is told the scale it works for (AnySR 2407.04241, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.geometry import Pair
from anysr.slimmable import SlimConv2d, prefix


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

    def forward(self, x_BCHW: Tensor, scale: Pair) -> Tensor:
        """Gate in (0, 1), (B, C, 1, 1), for features of any width C."""
        return self.from_pooled(x_BCHW.mean(dim=(2, 3)), scale)

    def from_pooled(self, pooled_BC: Tensor, scale: Pair) -> Tensor:
        """The gate, (B, C, 1, 1), of features whose spatial mean is ``pooled_BC``."""
        woven_BCp = weave(pooled_BC, self._signed(scale), self.config.interval)
        hidden = torch.relu(self.fc1(woven_BCp[:, :, None, None]))
        return torch.sigmoid(self.fc2(hidden, pooled_BC.shape[1]))

    def macs(self, channels: int) -> int:
        """Multiply-adds per image for features of this width."""
        return (self._woven(channels) + channels) * self.fc1.out_channels

    def _woven(self, channels: int) -> int:
        return channels + 2 * (channels // self.config.interval)

    def _signed(self, scale: Pair) -> Pair:
        if self.config.parity_sign and round(10 * max(scale)) % 2 == 1:
            return -scale[0], -scale[1]
        return scale


def weave(pooled_BC: Tensor, scale: Pair, interval: int) -> Tensor:
    """Insert the scale pair after every ``interval`` channels: (B, C) -> (B, C + 2 * (C // interval))."""
    batch, channels = pooled_BC.shape
    groups = channels // interval
    whole = pooled_BC[:, : groups * interval].reshape(batch, groups, interval)
    pair = pooled_BC.new_tensor(scale).expand(batch, groups, 2)
    woven = torch.cat([whole, pair], dim=2).reshape(batch, -1)
    return torch.cat([woven, pooled_BC[:, groups * interval :]], dim=1)


def gated_conv3x3(conv: SlimConv2d, gate: Interweave | None, x_BCHW: Tensor, scale: Pair, width: int) -> Tensor:
    """f times its gate, f the first ``width`` channels of ``conv``.

    The mean of f is linear in x, so without gradients the gate is known before f is computed and
    goes into the weights: the gate then costs nothing per pixel. The answer is the same.
    """
    if gate is None:
        return conv(x_BCHW, width)
    if torch.is_grad_enabled():
        f = conv(x_BCHW, width)
        return f * gate(f, scale)
    weight, bias = prefix(conv, x_BCHW.shape[1], width)
    gate_BC11 = gate.from_pooled(mean_of_conv3x3(x_BCHW, weight, bias), scale)
    return torch.cat(
        [
            F.conv2d(x[None], weight * a, bias * a.flatten(), padding=1)
            for x, a in zip(x_BCHW, gate_BC11.unsqueeze(2), strict=True)
        ]
    )


def mean_of_conv3x3(x_BCHW: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, O): spatial mean of a zero-padded 3x3 convolution, without computing it.

    Each tap sees the sum of x but for one border row and one border column.
    """
    x = x_BCHW.float()
    cols_BCW = torch.stack([x.sum(2) - x[:, :, -1], x.sum(2), x.sum(2) - x[:, :, 0]], dim=2)
    total = cols_BCW.sum(3)
    sums_BC33 = torch.stack([total - cols_BCW[..., -1], total, total - cols_BCW[..., 0]], dim=3)
    mean_BC33 = sums_BC33 / (x.shape[2] * x.shape[3])
    return torch.einsum("bcyx,ocyx->bo", mean_BC33, weight.float()).to(weight.dtype) + bias
