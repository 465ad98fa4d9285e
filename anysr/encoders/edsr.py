"""EDSR without its upsampler (1707.02921), with AnySR's slimmable, scale-aware residual blocks."""

from __future__ import annotations

import math
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
class EdsrConfig:
    """EDSR-baseline is 16 blocks of 64 channels; EDSR 32 of 256 with residual scaling 0.1.

    Attributes:
        num_blocks: residual blocks.
        channels: width of the trunk, and of the features handed to the decoder.
        block_channels: width inside a block, where subnets are narrowed; None means ``channels``.
        residual_scale: factor on each block's branch.
        adapt_every: ArbSR's adaption after every so many blocks; 0 for none.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Literal["edsr"] = "edsr"
    num_blocks: int = 16
    channels: int = 64
    block_channels: int | None = None
    residual_scale: float = 1.0
    adapt_every: int = 0

    def __post_init__(self) -> None:
        set_typed(self, "encoder")
        if self.num_blocks < 1 or self.channels < 1 or self.adapt_every < 0:
            raise ValueError(
                "encoder.num_blocks and encoder.channels must be at least 1 and adapt_every at least 0, got "
                f"{self.num_blocks}, {self.channels} and {self.adapt_every}"
            )
        if self.block_channels is not None and self.block_channels < 1:
            raise ValueError(f"encoder.block_channels must be at least 1, or null, got {self.block_channels}")
        if not math.isfinite(self.residual_scale):
            raise ValueError(f"encoder.residual_scale must be a finite number, got {self.residual_scale}")

    @property
    def slim_channels(self) -> int:
        """The width that subnets take a fraction of."""
        return self.channels if self.block_channels is None else self.block_channels

    def narrowed(self, width: int) -> EdsrConfig:
        """The configuration of the physically smaller encoder."""
        return replace(self, block_channels=width)


class EdsrBlock(nn.Module):
    """conv -> gate -> ReLU -> conv, plus the input; only the channels in between are narrowed."""

    def __init__(self, config: EdsrConfig, interweave: InterweaveConfig | None) -> None:
        super().__init__()
        self.residual_scale = config.residual_scale
        self.conv1 = SlimConv2d(config.channels, config.slim_channels, 3)
        self.conv2 = SlimConv2d(config.slim_channels, config.channels, 3)
        self.gate = None if interweave is None else Interweave(config.slim_channels, 2 * config.channels, interweave)

    def forward(self, x_BCHW: Tensor, scale: Pair, width: int) -> Tensor:
        return self._finish(x_BCHW, gated_conv3x3(self.conv1, self.gate, x_BCHW, scale, width))

    def in_tiles(self, x_1Chw: Tensor, scale: Pair, width: int, tile: Tile) -> None:
        """The same in place, window by window."""
        weight, bias = gated_weights(self.conv1, self.gate, x_1Chw, scale, width)
        sweep(x_1Chw, lambda x, _: self._finish(x, fast_conv3x3(x, weight, bias, relu=True)), tile, halo=2)

    def _finish(self, x_BCHW: Tensor, branch_BKHW: Tensor) -> Tensor:
        weight, bias = prefix(self.conv2, branch_BKHW.shape[1], None)
        return fast_conv3x3(branch_BKHW, weight, bias, skip=x_BCHW, factor=self.residual_scale)


class Edsr(nn.Module):
    """RGB to features of the same height and width."""

    def __init__(self, config: EdsrConfig, interweave: InterweaveConfig | None) -> None:
        super().__init__()
        self.config = config
        self.out_channels = config.channels
        self.head = SlimConv2d(3, config.channels, 3)
        blocks = [EdsrBlock(config, interweave) for _ in range(config.num_blocks)]
        self.blocks = cast(list[EdsrBlock], nn.ModuleList(blocks))
        adaptions = make_adaptions(config.channels, config.num_blocks, config.adapt_every)
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
        for i, block in enumerate(self.blocks, 1):
            deep = block(deep, scale, width)
            deep = adapt(deep, scale, self.adaptions, i, self.config.adapt_every)
        weight, bias = prefix(self.tail, deep.shape[1], None)
        return fast_conv3x3(deep, weight, bias, skip=shallow)

    def in_tiles(self, image_13hw: Tensor, scale: Pair, width: int, tile: Tile, progress: Progress) -> Tensor:
        """The features of one image, computed in windows of ``tile`` pixels; see ``encoders/tiles.py``."""
        deep = new_map(self.out_channels, image_13hw)
        sweep(image_13hw, lambda image, _: self.head(image), tile, halo=1, out=[deep])
        for i, block in enumerate(self.blocks, 1):
            block.in_tiles(deep, scale, width, tile)
            adapt(deep, scale, self.adaptions, i, self.config.adapt_every, tile)
            progress(i / len(self.blocks))
        sweep(deep, lambda x, at: self.head(at.of(image_13hw)) + self.tail(x), tile, halo=1)
        return deep

    def window_channels(self, width: int) -> int:
        """Channels held at once for each pixel that is being computed."""
        return 2 * (self.config.channels + width)

    def kept_channels(self, width: int) -> int:
        """Channels of the maps of the whole image that encoding in tiles keeps."""
        return self.config.channels

    def macs(self, lr_size: tuple[int, int], width: int) -> int:
        """Multiply-adds of one image of h x w."""
        config, pixels = self.config, lr_size[0] * lr_size[1]
        per_pixel = 9 * (3 * config.channels + config.channels**2 + 2 * config.num_blocks * config.channels * width)
        gates = sum(block.gate.macs(width) for block in self.blocks if block.gate is not None)
        return pixels * per_pixel + gates + sum(adaption.macs(lr_size) for adaption in self.adaptions)
