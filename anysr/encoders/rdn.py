"""RDN without its upsampler (1802.08797), with AnySR's slimmable, scale-aware dense blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.encoders.adaption import ScaleAdaption, adapt, make_adaptions
from anysr.encoders.tiles import Progress, Tile, Window, new_map, sweep
from anysr.fast_conv import fast_conv3x3
from anysr.fields import set_typed
from anysr.geometry import Pair
from anysr.interweave import Interweave, InterweaveConfig, one_by_one
from anysr.slimmable import SegmentConv2d, SlimConv2d


@dataclass(frozen=True)
class RdnConfig:
    """RDN-B is 16 blocks of 8 convolutions of 64 channels; RDN-A 20 blocks of 6 of 32.

    Attributes:
        num_blocks: dense blocks (the paper's D).
        num_convs: convolutions in a block (C).
        growth: channels that each convolution adds (G).
        channels: width of the trunk, and of the features handed to the decoder (G0).
        narrow_growth: channels of the two convolutions that subnets narrow; None means ``growth``.
        columns: which weights read the channels behind a narrowed convolution: "prefix" lets them
            shift, as AnySR's release does; "own" keeps each channel's column.
        adapt_every: ArbSR's adaption after every so many blocks; 0 for none.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Literal["rdn"] = "rdn"
    num_blocks: int = 16
    num_convs: int = 8
    growth: int = 64
    channels: int = 64
    narrow_growth: int | None = None
    columns: Literal["prefix", "own"] = "prefix"
    adapt_every: int = 0

    def __post_init__(self) -> None:
        set_typed(self, "encoder")
        if min(self.num_blocks, self.growth, self.channels) < 1 or self.num_convs < 4 or self.adapt_every < 0:
            raise ValueError(
                "encoder.num_blocks, growth and channels must be at least 1, num_convs at least 4 and adapt_every at "
                f"least 0, got {self.num_blocks}, {self.growth}, {self.channels}, {self.num_convs}, {self.adapt_every}"
            )
        if self.narrow_growth is not None and self.narrow_growth < 1:
            raise ValueError(f"encoder.narrow_growth must be at least 1, or null, got {self.narrow_growth}")
        if self.columns == "own" and self.slim_channels > self.growth:
            raise ValueError(
                'encoder.narrow_growth must be at most growth where columns is "own", got '
                f"{self.narrow_growth} and {self.growth}"
            )

    @property
    def slim_channels(self) -> int:
        """The width that subnets take a fraction of."""
        return self.growth if self.narrow_growth is None else self.narrow_growth

    def narrowed(self, width: int) -> RdnConfig:
        """The configuration of the physically smaller encoder."""
        return replace(self, narrow_growth=width)

    def segments(self, width: int) -> tuple[int, ...]:
        """Channels of a block's input and of each convolution's output.

        The fourth and the second last convolution are narrowed: 4 and 6, counted from 0, of 8.
        """
        slim = (self.num_convs - 4, self.num_convs - 2)
        return (self.channels, *(width if i in slim else self.growth for i in range(self.num_convs)))


class DenseBlock(nn.Module):
    """Each convolution reads all before it; a 1x1 fuses them; plus the input.

    The gate acts on the channels [G0 + (C - 2) G:] just before the fusion: at full width the last two
    convolutions' outputs. With ``columns`` "own" it acts on what is left of those two, through the
    weights that they have at full width.
    """

    def __init__(self, config: RdnConfig, interweave: InterweaveConfig | None) -> None:
        super().__init__()
        self.config = config
        sizes = config.segments(config.slim_channels)
        convs = [SegmentConv2d(sizes[: i + 1], sizes[i + 1], 3, config.columns) for i in range(config.num_convs)]
        self.convs = cast(list[SegmentConv2d], nn.ModuleList(convs))
        self.fusion = SegmentConv2d(sizes, config.channels, 1, config.columns)
        gated = 2 * (config.slim_channels if config.columns == "prefix" else config.growth)
        self.gate = None if interweave is None else Interweave(gated, 4 * config.growth, interweave)

    def forward(self, x_BCHW: Tensor, scale: Pair, width: int) -> Tensor:
        dense = self._dense(x_BCHW, width)
        if self.gate is None:
            return x_BCHW + self.fusion(dense, self.config.segments(width))
        return x_BCHW + self._fuse_gated(dense, scale, width)

    def in_tiles(self, x_1Chw: Tensor, scale: Pair, width: int, tile: Tile) -> None:
        """The same in place, window by window; gated channels are kept, and fused once their means are known."""
        weight, bias = self.fusion.narrow_weight(self.config.segments(width), None), self.fusion.bias
        halo = self.config.num_convs
        if self.gate is None:
            sweep(x_1Chw, lambda x, _: x + F.conv2d(self._dense(x, width), weight, bias), tile, halo)
            return
        first = self._first_gated(width)
        last = new_map(self.gated_channels(width), x_1Chw)

        def partly_fused(x: Tensor, _: Window) -> Tensor:
            dense = self._dense(x, width)
            return torch.cat([x + F.conv2d(dense[:, :first], weight[:, :first], bias), dense[:, first:]], dim=1)

        sweep(x_1Chw, partly_fused, tile, halo, out=[x_1Chw, last])
        gated = weight[:, first:] * self._gate(last, scale, width)
        sweep(x_1Chw, lambda x, at: x + F.conv2d(at.of(last), gated), tile, halo=0)

    def gated_channels(self, width: int) -> int:
        """Channels that the gate acts on; 0 without one."""
        return 0 if self.gate is None else sum(self.config.segments(width)) - self._first_gated(width)

    def macs(self, pixels: int, width: int) -> int:
        """Multiply-adds of one image."""
        sizes = self.config.segments(width)
        per_pixel = sum(9 * sum(sizes[: i + 1]) * sizes[i + 1] for i in range(self.config.num_convs))
        per_pixel += sum(sizes) * self.config.channels
        if self.gate is None:
            return pixels * per_pixel
        return pixels * per_pixel + self.gate.macs(
            2 * (width if self.config.columns == "prefix" else self.config.growth)
        )

    def _dense(self, x_BCHW: Tensor, width: int) -> Tensor:
        """The input and all convolutions' outputs."""
        sizes = self.config.segments(width)
        dense = x_BCHW
        for i, conv in enumerate(self.convs):
            weight, bias = conv.narrow(sizes[: i + 1], sizes[i + 1])
            dense = torch.cat([dense, fast_conv3x3(dense, weight, bias, relu=True)], dim=1)
        return dense

    def _first_gated(self, width: int) -> int:
        sizes = self.config.segments(width)
        if self.config.columns == "own":
            return sum(sizes[:-2])
        return self.config.channels + (self.config.num_convs - 2) * self.config.growth

    def _fuse_gated(self, dense_BCHW: Tensor, scale: Pair, width: int) -> Tensor:
        """The fusion of gated channels; without gradients the gate goes into its weights instead."""
        assert self.gate is not None
        sizes, first = self.config.segments(width), self._first_gated(width)
        last = dense_BCHW[:, first:]
        gate = self._gate(last, scale, width)
        if torch.is_grad_enabled() or torch.compiler.is_exporting():
            return self.fusion(torch.cat([dense_BCHW[:, :first], last * gate], dim=1), sizes)
        weight = self.fusion.narrow_weight(sizes, None)
        gates_BC11 = torch.cat([gate.new_ones(len(gate), first, 1, 1), gate], dim=1)
        images = zip(one_by_one(dense_BCHW), gates_BC11, strict=True)
        fused = [F.conv2d(x, weight * a, self.fusion.bias) for x, a in images]
        return fused[0] if len(fused) == 1 else torch.cat(fused)

    def _gate(self, last_BCHW: Tensor, scale: Pair, width: int) -> Tensor:
        assert self.gate is not None
        pooled_BC = last_BCHW.mean(dim=(2, 3))
        if self.config.columns == "prefix":
            return self.gate(pooled_BC, scale)
        absent = pooled_BC.new_zeros(len(pooled_BC), self.config.growth - width)
        gate = self.gate(torch.cat([pooled_BC[:, :width], absent, pooled_BC[:, width:]], dim=1), scale)
        return torch.cat([gate[:, :width], gate[:, self.config.growth :]], dim=1)


class Rdn(nn.Module):
    """RGB to features of the same height and width."""

    def __init__(self, config: RdnConfig, interweave: InterweaveConfig | None) -> None:
        super().__init__()
        self.config = config
        self.out_channels = channels = config.channels
        self.head = SlimConv2d(3, channels, 3)
        self.head2 = SlimConv2d(channels, channels, 3)
        blocks = [DenseBlock(config, interweave) for _ in range(config.num_blocks)]
        self.blocks = cast(list[DenseBlock], nn.ModuleList(blocks))
        self.adaptions = cast(list[ScaleAdaption], make_adaptions(channels, config.num_blocks, config.adapt_every))
        self.fusion = SlimConv2d(config.num_blocks * channels, channels, 1)
        self.tail = SlimConv2d(channels, channels, 3)

    def forward(self, image_B3HW: Tensor, scale: Pair, width: int) -> Tensor:
        """Features (B, channels, h, w).

        Args:
            image_B3HW: in the network's colour range.
            scale: (s_h, s_w), read by the interweaving and the adaption.
            width: channels of the narrowed convolutions, at most ``config.slim_channels``.
        """
        # Convolutions of small kernels and many channels are up to three times as fast channels last.
        shallow = self.head(image_B3HW.contiguous(memory_format=torch.channels_last))
        deep = self.head2(shallow)
        # The fusion of all blocks' outputs, summed as they come: their concatenation would be the largest tensor.
        weights = self.fusion.weight.split_with_sizes([self.config.channels] * self.config.num_blocks, 1)
        fused, bias = torch.zeros_like(deep), self.fusion.bias
        for i, block in enumerate(self.blocks, 1):
            deep = block(deep, scale, width)
            deep = adapt(deep, scale, self.adaptions, i, self.config.adapt_every)
            fused = fused + F.conv2d(deep, weights[i - 1], bias if i == 1 else None)
        return shallow + self.tail(fused)

    def in_tiles(self, image_13hw: Tensor, scale: Pair, width: int, tile: Tile, progress: Progress) -> Tensor:
        """The features of one image, computed in windows of ``tile`` pixels; see ``encoders/tiles.py``."""
        deep, fused = (new_map(self.out_channels, image_13hw) for _ in range(2))
        sweep(image_13hw, lambda image, _: self.head2(self.head(image)), tile, halo=2, out=[deep])
        assert self.fusion.bias is not None
        fused.copy_(self.fusion.bias.view(1, -1, 1, 1))
        weights = self.fusion.weight.split_with_sizes([self.config.channels] * self.config.num_blocks, 1)
        for i, (block, weight) in enumerate(zip(self.blocks, weights, strict=True), 1):
            block.in_tiles(deep, scale, width, tile)
            adapt(deep, scale, self.adaptions, i, self.config.adapt_every, tile)
            self._accumulate(fused, deep, weight, tile)
            progress(i / len(self.blocks))
        sweep(fused, lambda x, at: self.head(at.of(image_13hw)) + self.tail(x), tile, halo=1)
        return fused

    def _accumulate(self, fused_1Chw: Tensor, deep_1Chw: Tensor, weight: Tensor, tile: Tile) -> None:
        sweep(fused_1Chw, lambda x, at: x + F.conv2d(at.of(deep_1Chw), weight), tile, halo=0)

    def window_channels(self, width: int) -> int:
        """Channels held at once for each pixel that is being computed."""
        return 2 * sum(self.config.segments(width)) + self.config.channels

    def kept_channels(self, width: int) -> int:
        """Channels of the maps of the whole image that encoding in tiles keeps."""
        return 2 * self.config.channels + self.blocks[0].gated_channels(width)

    def macs(self, lr_size: tuple[int, int], width: int) -> int:
        """Multiply-adds of one image of h x w."""
        channels, pixels = self.config.channels, lr_size[0] * lr_size[1]
        trunk = 9 * (3 * channels + 2 * channels**2) + self.config.num_blocks * channels**2
        blocks = sum(block.macs(pixels, width) for block in self.blocks)
        return pixels * trunk + blocks + sum(adaption.macs(lr_size) for adaption in self.adaptions)
