"""LIIF: a pixel is an MLP of its nearest features and its place among them (2012.09161).

Evaluated in an exact, faster form. The first layer is linear in [unfolded features, rel, cell], so
its share of the features and of the cell is computed once per LR pixel (one 3x3 convolution) and
only the two-column share of the relative coordinate remains per query and corner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.decoders.corner_mlp import corner_mlp
from anysr.decoders.grid import (
    CORNERS,
    Rows,
    Strip,
    assemble,
    block_pixels,
    blocks,
    conv3x3_rows,
    strip_rows,
    strips,
    weighted_rows,
)
from anysr.fast_conv import fast_conv3x3
from anysr.fast_linear import FastLinear
from anysr.fields import set_typed
from anysr.geometry import (
    AxisCorners,
    GridQueries,
    Pair,
    PointQueries,
    Queries,
    axis_corners,
    bilinear,
    bilinear_rows,
    ensemble_weights,
    lr_cell,
    pixel_centres,
    scale_of,
)
from anysr.native.fused import ImageGrid, PackedLayers, StripGrid, liif_strip, padded, parts_for
from anysr.native.gpu import FusedLiif, grid_of
from anysr.slimmable import SlimLinear, prefix


@dataclass(frozen=True)
class LiifConfig:
    """LIIF's decoder; published: 4 hidden layers of 256 and no skip.

    Attributes:
        hidden: width of the hidden layers, narrowed by subnets.
        num_layers: hidden layers.
        skip: "bilinear" adds the bilinearly enlarged input, so that the network learns a residual.
        fade_in: how far above ×1 the residual counts in full: it takes its share of
            min(1, (scale - 1) / fade_in), so that ×1 returns the input. 0: everywhere in full.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Literal["liif"] = "liif"
    hidden: int = 256
    num_layers: int = 4
    skip: Literal["none", "bilinear"] = "none"
    fade_in: float = 0.0

    def __post_init__(self) -> None:
        set_typed(self, "decoder")
        if self.hidden < 1 or self.num_layers < 1:
            raise ValueError(
                f"decoder.hidden and decoder.num_layers must be at least 1, got {self.hidden} and {self.num_layers}"
            )
        if not 0 <= self.fade_in < math.inf or (self.fade_in and self.skip == "none"):
            raise ValueError(
                f"decoder.fade_in must be 0, or positive beside decoder.skip=bilinear, got {self.fade_in} beside "
                f"decoder.skip={self.skip}"
            )

    @property
    def slim_channels(self) -> int:
        """The width that subnets take a fraction of."""
        return self.hidden

    def residual_share(self, scale: Pair | Tensor) -> float | Tensor:
        """What the residual over ``skip`` counts at this scale, in [0, 1]."""
        if isinstance(scale, Tensor):
            return ((scale.max() - 1) / self.fade_in).clamp_max(1) if self.fade_in else 1.0
        return min(1.0, (max(scale) - 1) / self.fade_in) if self.fade_in else 1.0

    def narrowed(self, width: int) -> LiifConfig:
        """The configuration of the physically smaller decoder."""
        return replace(self, hidden=width)


class Liif(nn.Module):
    """Features and queries to RGB.

    Shapes: B images, D feature channels, K hidden units, Q queries, h x w features, H x W grid.
    """

    def __init__(self, config: LiifConfig, feat_channels: int) -> None:
        super().__init__()
        self.config = config
        self.feat_channels = feat_channels
        sizes = [9 * feat_channels + 4] + [config.hidden] * config.num_layers
        layers = [SlimLinear(a, b) for a, b in zip(sizes, [*sizes[1:], 3], strict=True)]
        self.layers = cast(list[SlimLinear], nn.ModuleList(layers))
        if config.skip != "none":  # start as the interpolation that the network corrects
            nn.init.zeros_(layers[-1].weight)
            nn.init.zeros_(layers[-1].bias)

    def forward(self, feat_BDhw: Tensor, image_B3hw: Tensor, queries: Queries, width: int) -> Tensor:
        """RGB in the normalised range: (B, 3, H, W) for a grid, (B, Q, 3) for points.

        Args:
            feat_BDhw: the encoder's features.
            image_B3hw: the normalised input, read only by ``skip``.
            queries: where to answer, and how large a pixel is there.
            width: hidden units K, at most ``config.hidden``.
        """
        if isinstance(queries, PointQueries):
            rgb = self._decode_points(feat_BDhw, queries, width)
        elif torch.is_grad_enabled():
            points = queries.as_points(feat_BDhw.shape[0], feat_BDhw.device)
            rgb = queries.as_image(self._decode_points(feat_BDhw, points, width))
        else:
            rows = self.rows(feat_BDhw, image_B3hw, queries, width)
            return assemble(rows, len(feat_BDhw), queries.size, feat_BDhw.device)
        if self.config.skip == "none":
            return rgb
        return rgb * self.config.residual_share(scale_of(queries, feat_BDhw)) + bilinear(image_B3hw, queries)

    def macs(self, lr_size: tuple[int, int], size: tuple[int, int], width: int) -> int:
        """Multiply-adds of one image, of the textbook form (the MLP on every query and corner)."""
        per_query = (9 * self.feat_channels + 4 + 3) * width + (self.config.num_layers - 1) * width**2
        return 4 * size[0] * size[1] * per_query

    def executed_macs(self, lr_size: tuple[int, int], size: tuple[int, int], width: int) -> int:
        """Multiply-adds that this implementation spends on the same grid; element-wise work is not counted."""
        per_query = 3 * width + (self.config.num_layers - 1) * width**2
        return 4 * size[0] * size[1] * per_query + lr_size[0] * lr_size[1] * 9 * self.feat_channels * width

    def _kernel(self, cell_2: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first layer as a 3x3 convolution (weight, bias with the share of ``lr_cell``) and (2, K) for rel."""
        num_unfolded = 9 * self.feat_channels
        weight, bias = prefix(self.layers[0], num_unfolded + 4, width)
        kernel = weight[:, :num_unfolded].reshape(width, self.feat_channels, 3, 3)
        rel_weight, cell_weight = weight[:, num_unfolded:].split(2, dim=1)
        return kernel, bias + cell_weight @ cell_2.to(weight), rel_weight.t()

    def _decode_points(self, feat_BDhw: Tensor, queries: PointQueries, width: int) -> Tensor:
        batch, _, rows, cols = feat_BDhw.shape
        kernel, bias, rel_weight = self._kernel(lr_cell(queries, feat_BDhw), width)
        table = fast_conv3x3(feat_BDhw, kernel, bias).permute(0, 2, 3, 1).reshape(-1, width)
        ys = axis_corners(queries.coord[..., 0], rows)
        xs = axis_corners(queries.coord[..., 1], cols)
        weights_22BQ = ensemble_weights(ys.rel, xs.rel)
        first_pixel_B1 = torch.arange(batch, device=table.device)[:, None] * (rows * cols)
        index_4BQ = torch.stack([first_pixel_B1 + ys.index[cy] * cols + xs.index[cx] for cy, cx in CORNERS])
        rel_4BQ2 = torch.stack([torch.stack([ys.rel[cy], xs.rel[cx]], dim=-1) for cy, cx in CORNERS])
        tail = [t for layer in self._layers_after_first(width) for t in layer]
        rgb = corner_mlp(table, index_4BQ.view(-1), rel_4BQ2.view(-1, 2), rel_weight, tail)
        return (rgb.view(4, batch, -1, 3) * weights_22BQ.flatten(0, 1)[..., None]).sum(0)

    def rows(self, feat_BDhw: Tensor, image_B3hw: Tensor, queries: GridQueries, width: int) -> Iterator[Rows]:
        """The answer for a grid strip by strip, without gradients.

        Indices and relative coordinates depend on the row or the column alone.
        """
        batch, _, rows, cols = feat_BDhw.shape
        dtype = feat_BDhw.dtype
        axes = [
            axis_corners(pixel_centres(n, feat_BDhw.device), m) for n, m in zip(queries.size, (rows, cols), strict=True)
        ]
        kernel, bias, rel_weight = (t.to(dtype) for t in self._kernel(lr_cell(queries, feat_BDhw), width))
        share = self.config.residual_share(scale_of(queries, feat_BDhw))
        if (parts := parts_for(feat_BDhw)) is not None:
            kernel, bias, rel_weight = _pad_channels(kernel, bias, rel_weight, padded(width))
            decode = self._fused_strips(axes, cols, rel_weight, width, parts)
        elif (fused := FusedLiif.of(feat_BDhw, width)) is not None:
            kernel, bias, rel_weight = _pad_channels(kernel, bias, rel_weight, fused.width)
            decode = self._gpu_strips(axes, cols, rel_weight, width, fused)
        else:
            decode = self._plain_strips(axes, cols, rel_weight, width)
        for strip in strips(axes[0].index, strip_rows(feat_BDhw, cols * len(bias) * dtype.itemsize)):
            for b in range(batch):
                rgb_3RW = torch.empty(
                    3, strip.bottom - strip.top, queries.size[1], dtype=torch.float32, device=feat_BDhw.device
                )
                with torch.autocast(feat_BDhw.device.type, enabled=False):
                    decode(strip, conv3x3_rows(feat_BDhw[b], kernel, bias, strip), rgb_3RW)
                if self.config.skip == "bilinear":
                    if share < 1:
                        rgb_3RW *= share
                    rgb_3RW += bilinear_rows(image_B3hw[b, None], queries.size, strip.top, strip.bottom)[0]
                yield Rows(b, strip.top, rgb_3RW)

    def _plain_strips(self, axes: list[AxisCorners], cols: int, rel_weight: Tensor, width: int) -> _DecodeStrip:
        """Block by block through torch's operators."""
        places, dtype = _Places(axes[0], axes[1], cols), rel_weight.dtype
        layers, last = self._layers_after_first(width), self.config.num_layers - 1
        tail = [
            FastLinear(w.to(dtype), b.to(dtype), "none" if i == last else "relu") for i, (w, b) in enumerate(layers)
        ]

        def decode(strip: Strip, projected: Tensor, rgb_3RW: Tensor) -> None:
            table = torch.cat([projected, rel_weight])  # rel multiplies the last two rows
            for r, c in blocks(strip, rgb_3RW.shape[2], block_pixels(table)):
                inside = slice(r.start - strip.top, r.stop - strip.top)
                rgb_3RW[:, inside, c] = _decode_block(table, tail, strip.first, places, r, c)

        return decode

    def _fused_strips(
        self, axes: list[AxisCorners], cols: int, rel_weight: Tensor, width: int, parts: int
    ) -> _DecodeStrip:
        """All layers of a block in one compiled kernel."""
        layers, rel = PackedLayers(self._layers_after_first(width), parts), rel_weight.float().contiguous()
        image = ImageGrid(axes[0], axes[1], cols)

        def decode(strip: Strip, projected: Tensor, rgb_3RW: Tensor) -> None:
            liif_strip(StripGrid(image, strip, rgb_3RW), projected.contiguous(), rel, layers, parts)

        return decode

    def _gpu_strips(
        self, axes: list[AxisCorners], cols: int, rel_weight: Tensor, width: int, fused: FusedLiif
    ) -> _DecodeStrip:
        """The same on a GPU."""
        layers, rel = fused.stacked(self._layers_after_first(width), rel_weight), rel_weight.float().contiguous()
        image = ImageGrid(axes[0], axes[1], cols)

        def decode(strip: Strip, projected: Tensor, rgb_3RW: Tensor) -> None:
            grid = grid_of(fused.kernels, image, (strip.top, 0, rgb_3RW.shape[2]), (strip.first, 0, cols))
            fused.fill(grid, projected.contiguous(), rel, layers, rgb_3RW)

        return decode

    def _layers_after_first(self, width: int) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each."""
        return [prefix(layer, width, width) for layer in self.layers[1:-1]] + [prefix(self.layers[-1], width, 3)]


# Fills a strip of an image, given the first layer's share of its features.
_DecodeStrip = Callable[[Strip, Tensor, Tensor], None]


def _pad_channels(kernel: Tensor, bias: Tensor, rel_weight: Tensor, to: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first layer with as many hidden units as the compiled kernels take; the new ones stay 0."""
    more = to - len(bias)
    return F.pad(kernel, (0, 0) * 3 + (0, more)), F.pad(bias, (0, more)), F.pad(rel_weight, (0, more))


@dataclass(frozen=True)
class _Places:
    """Where the pixels of a grid lie among ``cols`` features a row."""

    ys: AxisCorners
    xs: AxisCorners
    cols: int

    def lookup(
        self, corner: tuple[int, int], first_row: int, rel_row: int, r: slice, c: slice
    ) -> tuple[Tensor, Tensor]:
        """(Q, 3) rows of a strip's table that make the first layer of a block, and their weights."""
        cy, cx = corner
        pixel = (self.ys.index[cy, r, None] - first_row) * self.cols + self.xs.index[cx, c]
        rel_y, rel_x = self.ys.rel[cy, r, None].expand(pixel.shape), self.xs.rel[cx, c].expand(pixel.shape)
        index = torch.stack([pixel, torch.full_like(pixel, rel_row), torch.full_like(pixel, rel_row + 1)], -1)
        return index.view(-1, 3), torch.stack([torch.ones_like(rel_y), rel_y, rel_x], -1).view(-1, 3)


def _decode_block(
    table_NK: Tensor, tail: list[FastLinear], first_row: int, places: _Places, r: slice, c: slice
) -> Tensor:
    """(3, rows, columns) of one block: the four corners' answers, blended in float32."""
    weights_22RC = ensemble_weights(places.ys.rel[:, r, None], places.xs.rel[:, None, c])
    rgb_Q3 = torch.zeros((), device=table_NK.device)
    for corner in CORNERS:
        index, share = places.lookup(corner, first_row, len(table_NK) - 2, r, c)
        hidden = torch.relu_(weighted_rows(table_NK, index, share))
        for layer in tail:
            hidden = layer(hidden)
        rgb_Q3 = rgb_Q3 + hidden.float() * weights_22RC[corner].reshape(-1, 1)
    return rgb_Q3.t().view(3, *weights_22RC.shape[2:])
