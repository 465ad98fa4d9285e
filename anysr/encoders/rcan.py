"""RCAN without its upsampler (1807.02758), with AnySR's slimmable, scale-aware residual blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from anysr.encoders.adaption import ScaleAdaption, adapt, make_adaptions
from anysr.encoders.tiles import Progress, Tile, new_map, sweep
from anysr.fast_conv import fast_conv3x3
from anysr.fields import set_typed
from anysr.geometry import Pair
from anysr.interweave import Interweave, InterweaveConfig, gated_conv3x3, gated_weights
from anysr.slimmable import SlimConv2d, prefix


@dataclass(frozen=True)
class RcanConfig:
    """Published: 10 groups of 20 blocks of 64 channels.

    Attributes:
        num_groups: residual groups.
        num_blocks: residual blocks in a group.
        channels: width of the trunk, and of the features handed to the decoder.
        block_channels: width inside a block, where subnets are narrowed; None means ``channels``.
        reduction: channels per hidden unit of the channel attention.
        adapt_every: ArbSR's adaption after every so many groups; 0 for none, 1 as ArbSR published.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Literal["rcan"] = "rcan"
    num_groups: int = 10
    num_blocks: int = 20
    channels: int = 64
    block_channels: int | None = None
    reduction: int = 16
    adapt_every: int = 0

    def __post_init__(self) -> None:
        set_typed(self, "encoder")
        sizes = (self.num_groups, self.num_blocks, self.channels, self.reduction)
        if min(sizes) < 1 or self.reduction > self.channels or self.adapt_every < 0:
            raise ValueError(
                "encoder.num_groups, num_blocks, channels and reduction must be at least 1, reduction at most channels "
                f"and adapt_every at least 0, got {sizes} and {self.adapt_every}"
            )
        if self.block_channels is not None and self.block_channels < 1:
            raise ValueError(f"encoder.block_channels must be at least 1, or null, got {self.block_channels}")

    @property
    def slim_channels(self) -> int:
        """The width that subnets take a fraction of."""
        return self.channels if self.block_channels is None else self.block_channels

    def narrowed(self, width: int) -> RcanConfig:
        """The configuration of the physically smaller encoder."""
        return replace(self, block_channels=width)


class ChannelAttention(nn.Module):
    """Each channel times a sigmoid of an MLP of all channels' means."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = SlimConv2d(channels, channels // reduction, 1)
        self.excite = SlimConv2d(channels // reduction, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.factors(x_BCHW)

    def factors(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, 1, 1) in (0, 1), from the whole image's features."""
        pooled = x_BCHW.mean(dim=(2, 3), keepdim=True)
        return torch.sigmoid(self.excite(torch.relu(self.squeeze(pooled))))


class RcanBlock(nn.Module):
    """conv -> gate -> ReLU -> conv -> channel attention, plus the input."""

    def __init__(self, config: RcanConfig, interweave: InterweaveConfig | None) -> None:
        super().__init__()
        self.conv1 = SlimConv2d(config.channels, config.slim_channels, 3)
        self.conv2 = SlimConv2d(config.slim_channels, config.channels, 3)
        self.attention = ChannelAttention(config.channels, config.reduction)
        self.gate = None if interweave is None else Interweave(config.slim_channels, 2 * config.channels, interweave)

    def forward(self, x_BCHW: Tensor, scale: Pair, width: int) -> Tensor:
        branch = gated_conv3x3(self.conv1, self.gate, x_BCHW, scale, width)
        return x_BCHW + self.attention(self._second(branch))

    def in_tiles(self, x_1Chw: Tensor, branch_1Chw: Tensor, scale: Pair, width: int, tile: Tile) -> None:
        """The same in place, window by window; the branch needs a map of its own, for its means."""
        weight, bias = gated_weights(self.conv1, self.gate, x_1Chw, scale, width)

        def branch(x: Tensor, _: object) -> Tensor:
            return self._second(fast_conv3x3(x, weight, bias, relu=True))

        sweep(x_1Chw, branch, tile, halo=2, out=[branch_1Chw])
        x_1Chw.addcmul_(branch_1Chw, self.attention.factors(branch_1Chw))

    def _second(self, branch_BKHW: Tensor) -> Tensor:
        return fast_conv3x3(branch_BKHW, *prefix(self.conv2, branch_BKHW.shape[1], None))


class RcanGroup(nn.Module):
    """Blocks and a convolution, plus the input."""

    def __init__(self, config: RcanConfig, interweave: InterweaveConfig | None) -> None:
        super().__init__()
        blocks = [RcanBlock(config, interweave) for _ in range(config.num_blocks)]
        self.blocks = cast(list[RcanBlock], nn.ModuleList(blocks))
        self.tail = SlimConv2d(config.channels, config.channels, 3)

    def forward(self, x_BCHW: Tensor, scale: Pair, width: int) -> Tensor:
        deep = x_BCHW
        for block in self.blocks:
            deep = block(deep, scale, width)
        return x_BCHW + self.tail(deep)

    def in_tiles(self, x_1Chw: Tensor, spare: tuple[Tensor, Tensor], scale: Pair, width: int, tile: Tile) -> None:
        """The same in place, window by window, with two more maps to write on."""
        given, branch = spare
        given.copy_(x_1Chw)
        for block in self.blocks:
            block.in_tiles(x_1Chw, branch, scale, width, tile)
        sweep(x_1Chw, lambda x, at: at.of(given) + self.tail(x), tile, halo=1)


class Rcan(nn.Module):
    """RGB to features of the same height and width."""

    def __init__(self, config: RcanConfig, interweave: InterweaveConfig | None) -> None:
        super().__init__()
        self.config = config
        self.out_channels = config.channels
        self.head = SlimConv2d(3, config.channels, 3)
        groups = [RcanGroup(config, interweave) for _ in range(config.num_groups)]
        self.groups = cast(list[RcanGroup], nn.ModuleList(groups))
        adaptions = make_adaptions(config.channels, config.num_groups, config.adapt_every)
        self.adaptions = cast(list[ScaleAdaption], adaptions)
        self.tail = SlimConv2d(config.channels, config.channels, 3)

    def forward(self, image_B3HW: Tensor, scale: Pair, width: int) -> Tensor:
        """Features (B, channels, h, w).

        Args:
            image_B3HW: in the network's colour range.
            scale: (s_h, s_w), read by the interweaving and the adaption.
            width: channels inside each block, at most ``config.slim_channels``.
        """
        # Convolutions of small kernels and many channels are up to three times as fast channels last.
        shallow = self.head(image_B3HW.contiguous(memory_format=torch.channels_last))
        deep = shallow
        for i, group in enumerate(self.groups, 1):
            deep = group(deep, scale, width)
            deep = adapt(deep, scale, self.adaptions, i, self.config.adapt_every)
        return shallow + self.tail(deep)

    def in_tiles(self, image_13hw: Tensor, scale: Pair, width: int, tile: Tile, progress: Progress) -> Tensor:
        """The features of one image, computed in windows of ``tile`` pixels; see ``encoders/tiles.py``."""
        deep, *spare = (new_map(self.out_channels, image_13hw) for _ in range(3))
        sweep(image_13hw, lambda image, _: self.head(image), tile, halo=1, out=[deep])
        for i, group in enumerate(self.groups, 1):
            group.in_tiles(deep, (spare[0], spare[1]), scale, width, tile)
            adapt(deep, scale, self.adaptions, i, self.config.adapt_every, tile)
            progress(i / len(self.groups))
        sweep(deep, lambda x, at: self.head(at.of(image_13hw)) + self.tail(x), tile, halo=1)
        return deep

    def window_channels(self, width: int) -> int:
        """Channels held at once for each pixel that is being computed."""
        return 2 * (self.config.channels + width)

    def kept_channels(self, width: int) -> int:
        """Channels of the maps of the whole image that encoding in tiles keeps."""
        return 3 * self.config.channels

    def macs(self, lr_size: tuple[int, int], width: int) -> int:
        """Multiply-adds of one image of h x w."""
        config, pixels = self.config, lr_size[0] * lr_size[1]
        channels, num_blocks = config.channels, config.num_groups * config.num_blocks
        per_pixel = 9 * (
            (3 + channels) * channels + config.num_groups * channels**2 + 2 * num_blocks * channels * width
        )
        attention = num_blocks * 2 * channels * (channels // config.reduction)
        gates = [block.gate for group in self.groups for block in group.blocks if block.gate is not None]
        adaptions = sum(adaption.macs(lr_size) for adaption in self.adaptions)
        return pixels * per_pixel + attention + sum(gate.macs(width) for gate in gates) + adaptions
