"""Layers whose narrow versions are prefixes of the wide one (universally slimmable networks, 1903.05134).

A slim layer takes as many input channels as it is given and answers as many output channels as it
is asked for, always the first ones, so the weights nest: W1 in W2 in ... in W_T.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The mend for a network whose weights have other names than its configuration's.
AS_BUILT = (
    "remove pruning, parametrizations and added parts first (torch.nn.utils.prune.remove, "
    "torch.nn.utils.parametrize.remove_parametrizations)"
)


def channels_at(fraction: float, full: int, multiple: int = 1) -> int:
    """Number of channels of a layer of ``full`` channels at a width fraction.

    With ``multiple`` 1 it is int(full * fraction), as in AnySR's release (64 * 0.7 -> 44); otherwise
    the nearest multiple, at least one and at most ``full``.
    """
    if fraction >= 1:
        return full
    if multiple == 1:
        return max(1, int(full * fraction))
    return min(full, max(multiple, int(full * fraction / multiple + 0.5) * multiple))


class SlimConv2d(nn.Conv2d):
    """Stride-1, same-padded convolution that can be run at a narrower width."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x_BCHW: Tensor, out_channels: int | None = None) -> Tensor:
        weight, bias = prefix(self, x_BCHW.shape[1], out_channels)
        return F.conv2d(x_BCHW, weight, bias, padding=self.padding)


class SlimLinear(nn.Linear):
    """Linear layer that can be run at a narrower width."""

    def forward(self, x: Tensor, out_features: int | None = None) -> Tensor:
        weight, bias = prefix(self, x.shape[-1], out_features)
        return F.linear(x, weight, bias)


class SegmentConv2d(nn.Conv2d):
    """Stride-1, same-padded convolution of concatenated segments, each of which may be narrower.

    A narrow segment shifts every channel behind it. With ``columns`` "prefix" the weights stay where
    they are, as in AnySR's release: a column then serves different features at different widths.
    With "own" each channel keeps the column that it has at full width.
    """

    def __init__(
        self, segments: Sequence[int], out_channels: int, kernel_size: int, columns: Literal["prefix", "own"]
    ) -> None:
        super().__init__(sum(segments), out_channels, kernel_size, padding=kernel_size // 2)
        self.segments = tuple(segments)
        self.columns = columns

    def forward(self, x_BCHW: Tensor, segments: Sequence[int] | None = None, out_channels: int | None = None) -> Tensor:
        weight, bias = self.narrow(segments or self.segments, out_channels)
        return F.conv2d(x_BCHW, weight, bias, padding=self.padding)

    def narrow(self, segments: Sequence[int], out_channels: int | None) -> tuple[Tensor, Tensor]:
        """Weight and bias for segments of these widths."""
        assert self.bias is not None
        return self.narrow_weight(segments, out_channels), self.bias[:out_channels]

    def narrow_weight(self, segments: Sequence[int], out_channels: int | None) -> Tensor:
        """The weight's columns for segments of these widths."""
        rows = self.weight[:out_channels]
        if self.columns == "prefix" or tuple(segments) == self.segments:
            return rows[:, : sum(segments)]
        parts = zip(rows.split_with_sizes(self.segments, 1), segments, strict=True)
        return torch.cat([part[:, :width] for part, width in parts], dim=1)

    @torch.no_grad()
    def copy_from(self, wide: SegmentConv2d) -> None:
        """Take the columns that this narrower layer's segments have in the wide one."""
        self.weight.copy_(wide.narrow_weight(self.segments, self.out_channels))


def prefix(layer: nn.Conv2d | nn.Linear, num_in: int, num_out: int | None) -> tuple[Tensor, Tensor]:
    """The first ``num_out`` rows and ``num_in`` columns of a layer's weight, and its bias."""
    assert layer.bias is not None
    return layer.weight[:num_out, :num_in], layer.bias[:num_out]


def copy_prefixes(source: nn.Module, target: nn.Module) -> None:
    """Fill the physically smaller ``target`` with the leading part of each of ``source``'s tensors.

    A :class:`SegmentConv2d` knows which columns are its own.

    Raises:
        ValueError: the tensors' names differ, as those of pruned layers do.
    """
    wide, like = source.state_dict(), target.state_dict()
    if differing := sorted(wide.keys() ^ like.keys()):
        raise ValueError(f"no subnet can be taken out of a network with other weights, {differing[0]}; {AS_BUILT}")
    narrow = {name: wide[name][tuple(slice(n) for n in tensor.shape)].clone() for name, tensor in like.items()}
    target.load_state_dict(narrow)
    for name, module in target.named_modules():
        if isinstance(module, SegmentConv2d):
            wide_module = source.get_submodule(name)
            assert isinstance(wide_module, SegmentConv2d)
            module.copy_from(wide_module)
