"""Meta-SR in LIIF's form: a small network predicts the filter of every output pixel (1903.00875).

Evaluated in an exact, faster form. The filter is linear in the predicting network's hidden units,
so the features are convolved with the share of each unit once per LR pixel,
Z_cj = sum of features times W_cj, and a pixel is sum_j h_j Z_cj + Z_c0: no filter is ever formed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.decoders.grid import Rows, Strip, assemble, block_pixels, conv3x3_rows, strip_rows, strips
from anysr.fields import set_typed
from anysr.geometry import AxisCorners, GridQueries, Pair, PointQueries, Queries, axis_containing, pixel_centres
from anysr.slimmable import SlimLinear, prefix

# In LR pixels; what moves an answer by 1e-4 is more than twice as much.
_SAME_OFFSET = 2e-5


@dataclass(frozen=True)
class MetaSrConfig:
    """Meta-SR's upsampler; published: one hidden layer of 256.

    Attributes:
        hidden: hidden units of the predicting network, narrowed by subnets.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Literal["metasr"] = "metasr"
    hidden: int = 256

    def __post_init__(self) -> None:
        set_typed(self, "decoder")
        if self.hidden < 1:
            raise ValueError(f"decoder.hidden must be at least 1, got {self.hidden}")

    @property
    def slim_channels(self) -> int:
        """The width that subnets take a fraction of."""
        return self.hidden

    def narrowed(self, width: int) -> MetaSrConfig:
        """The configuration of the physically smaller decoder."""
        return replace(self, hidden=width)


class MetaSr(nn.Module):
    """Features and queries to RGB.

    Shapes: B images, D feature channels, J hidden units, Q queries, h x w features, H x W grid.
    """

    def __init__(self, config: MetaSrConfig, feat_channels: int) -> None:
        super().__init__()
        self.config = config
        self.feat_channels = feat_channels
        layers = [SlimLinear(3, config.hidden), SlimLinear(config.hidden, 9 * feat_channels * 3)]
        self.layers = cast(list[SlimLinear], nn.ModuleList(layers))

    def forward(self, feat_BDhw: Tensor, image_B3hw: Tensor, queries: Queries, width: int) -> Tensor:
        """RGB in the normalised range: (B, 3, H, W) for a grid, (B, Q, 3) for points.

        Args:
            feat_BDhw: the encoder's features.
            image_B3hw: not read; every decoder is called alike.
            queries: where to answer, and how large a pixel is there.
            width: hidden units J, at most ``config.hidden``.
        """
        if isinstance(queries, PointQueries):
            return self._decode_points(feat_BDhw, queries, width)
        if torch.is_grad_enabled():
            points = queries.as_points(feat_BDhw.shape[0], feat_BDhw.device)
            return queries.as_image(self._decode_points(feat_BDhw, points, width))
        rows = self.rows(feat_BDhw, image_B3hw, queries, width)
        return assemble(rows, len(feat_BDhw), queries.size, feat_BDhw.device)

    def macs(self, lr_size: tuple[int, int], size: tuple[int, int], width: int) -> int:
        """Multiply-adds of one image, of the textbook form (a filter for every pixel)."""
        filters = 9 * self.feat_channels * 3
        return size[0] * size[1] * (3 * width + filters * width + filters)

    def executed_macs(self, lr_size: tuple[int, int], size: tuple[int, int], width: int) -> int:
        """Multiply-adds that this implementation spends on the same answer."""
        per_query = 2 * width + 3 * (width + 1)
        return size[0] * size[1] * per_query + lr_size[0] * lr_size[1] * 9 * self.feat_channels * 3 * (width + 1)

    def _kernel(self, width: int) -> Tensor:
        """(3 (J + 1), D, 3, 3): for each colour, the share of every hidden unit and of the bias."""
        weight, bias = prefix(self.layers[1], width, None)
        columns = torch.cat([weight, bias[:, None]], dim=1)
        by_colour = columns.view(self.feat_channels, 3, 3, 3, width + 1).permute(3, 4, 0, 1, 2)
        return by_colour.reshape(3 * (width + 1), self.feat_channels, 3, 3)

    def _hidden_parts(self, lr_size: tuple[int, int], cell: Pair | Tensor, width: int) -> tuple[Tensor, Tensor]:
        """(J, 2) for rel, and the bias with the cell's share, of the first layer."""
        weight, bias = prefix(self.layers[0], 3, width)
        return weight[:, :2], bias + weight[:, 2] * (cell[0] * lr_size[0] / 2)

    def _decode_points(self, feat_BDhw: Tensor, queries: PointQueries, width: int) -> Tensor:
        batch, _, rows, cols = feat_BDhw.shape
        z_BRhw = F.conv2d(feat_BDhw, self._kernel(width), padding=1)
        table = z_BRhw.permute(0, 2, 3, 1).reshape(-1, z_BRhw.shape[1])
        ys = axis_containing(queries.coord[..., 0], queries.cell[0], rows)
        xs = axis_containing(queries.coord[..., 1], queries.cell[1], cols)
        first_pixel_B1 = torch.arange(batch, device=table.device)[:, None] * (rows * cols)
        z_QR = table.index_select(0, (first_pixel_B1 + ys.index * cols + xs.index).view(-1))
        weight, bias = self._hidden_parts((rows, cols), queries.cell, width)
        rel_Q2 = torch.stack([ys.rel, xs.rel], dim=-1).view(-1, 2).to(table.dtype)
        return _combine(z_QR, torch.relu(F.linear(rel_Q2, weight, bias))).view(batch, -1, 3)

    def rows(self, feat_BDhw: Tensor, image_B3hw: Tensor, queries: GridQueries, width: int) -> Iterator[Rows]:
        """The answer for a grid strip by strip, without gradients.

        Indices and offsets depend on the row or the column alone.
        """
        batch, _, rows, cols = feat_BDhw.shape
        dtype, device = feat_BDhw.dtype, feat_BDhw.device
        ys = axis_containing(pixel_centres(queries.size[0], device), queries.cell[0], rows)
        xs = axis_containing(pixel_centres(queries.size[1], device), queries.cell[1], cols)
        weight, bias = (t.float() for t in self._hidden_parts((rows, cols), queries.cell, width))
        if _is_periodic(ys, rows) and _is_periodic(xs, cols):
            yield from self._whole_scale_rows(feat_BDhw, queries, ys.index, weight, bias)
            return
        by_row_HJ, by_col_WJ = ys.rel[:, None] * weight[:, 0] + bias, xs.rel[:, None] * weight[:, 1]
        kernel, columns = self._kernel(width).to(dtype), list(_alike(xs.index, len(xs.index), 1))
        for strip in strips(ys.index[None], strip_rows(feat_BDhw, cols * kernel.shape[0] * dtype.itemsize)):
            for b in range(batch):
                rgb_3RW = torch.empty(3, strip.bottom - strip.top, queries.size[1], dtype=torch.float32, device=device)
                with torch.autocast(device.type, enabled=False):
                    table = conv3x3_rows(feat_BDhw[b], kernel, None, strip)
                    z_hwcj = table.view(-1, cols, 3, width + 1)
                    for rows_a, ys_an in _alike(ys.index[strip.top : strip.bottom], block_pixels(table), len(xs.index)):
                        for cols_p, xs_pm in columns:
                            z_apcj = z_hwcj[(rows_a - strip.first)[:, None], cols_p]
                            by_row = by_row_HJ[ys_an + strip.top][:, None, :, None]
                            hidden_apnmJ = torch.relu_(by_row + by_col_WJ[xs_pm][:, None]).to(dtype)
                            places = ys_an[:, None, :, None], xs_pm[:, None]
                            rgb_3RW[:, *places] = _combine_alike(z_apcj, hidden_apnmJ)
                yield Rows(b, strip.top, rgb_3RW)

    def _whole_scale_rows(
        self, feat_BDhw: Tensor, queries: GridQueries, row_H: Tensor, weight: Tensor, bias: Tensor
    ) -> Iterator[Rows]:
        """At whole factors the few filters repeat from LR pixel to LR pixel: one convolution, shuffled."""
        size, (rows, cols) = queries.size, feat_BDhw.shape[-2:]
        times = size[0] // rows, size[1] // cols
        rel = torch.cartesian_prod(*(torch.arange(t, dtype=weight.dtype, device=weight.device) / t for t in times))
        hidden_PJ = torch.relu(F.linear(rel, weight, bias)).to(feat_BDhw.dtype)
        kernel = self._kernel(hidden_PJ.shape[1]).view(3, -1, 9 * self.feat_channels)
        kernel = hidden_PJ @ kernel[:, :-1] + kernel[:, -1:]
        kernel = kernel.view(-1, self.feat_channels, 3, 3).to(feat_BDhw.dtype)
        for strip in strips(row_H[None], strip_rows(feat_BDhw, 4 * kernel.shape[0] * cols)):
            for b in range(len(feat_BDhw)):
                yield Rows(b, strip.top, self._shuffled(feat_BDhw[b], kernel, times, strip))

    def _shuffled(self, feat_Dhw: Tensor, kernel: Tensor, times: tuple[int, int], strip: Strip) -> Tensor:
        cols = feat_Dhw.shape[2]
        with torch.autocast(feat_Dhw.device.type, enabled=False):
            phases = conv3x3_rows(feat_Dhw, kernel, None, strip).float()
        by_phase = phases.view(-1, cols, 3, *times).permute(2, 0, 3, 1, 4)
        return by_phase.reshape(3, -1, cols * times[1])


def _is_periodic(axis: AxisCorners, num_pixels: int) -> bool:
    """Whether every LR pixel serves the same whole number of output pixels, at the same offsets.

    Coordinates are float32: from some 500 pixels on their offsets differ, from 1,000 on by what shows in the answer.
    """
    times, rest = divmod(len(axis.index), num_pixels)
    device = axis.index.device
    if rest or not torch.equal(axis.index, torch.arange(num_pixels, device=device).repeat_interleave(times)):
        return False
    phases = torch.arange(times, device=device) / times
    return bool((axis.rel.view(num_pixels, times) - phases).abs().max() <= _SAME_OFFSET)


def _alike(index: Tensor, max_pixels: int, across: int) -> Iterator[tuple[Tensor, Tensor]]:
    """LR pixels of one axis (P) that serve equally many output pixels, and those pixels' places (P, n).

    Args:
        index: ascending, the LR pixel of each output pixel.
        max_pixels: about so many output pixels of the image at a time.
        across: output pixels along the other axis.
    """
    pixels, counts = torch.unique_consecutive(index, return_counts=True)
    starts = counts.cumsum(0) - counts
    for count in counts.unique().tolist():
        same = counts == count
        step = max(1, max_pixels // (count * across))
        places = starts[same][:, None] + torch.arange(count, device=index.device)
        yield from zip(pixels[same].split(step), places.split(step), strict=True)


def _combine_alike(z_apcj: Tensor, hidden_apnmJ: Tensor) -> Tensor:
    """(3, a, p, n, m) float32: :func:`_combine` where n x m output pixels share what they read."""
    shape = hidden_apnmJ.shape[:4]
    z_P3j = z_apcj.flatten(0, 1)
    rgb_PQ3 = torch.bmm(hidden_apnmJ.view(len(z_P3j), -1, hidden_apnmJ.shape[4]), z_P3j[..., :-1].transpose(1, 2))
    return (rgb_PQ3.float() + z_P3j[:, None, :, -1].float()).view(*shape, 3).permute(4, 0, 1, 2, 3)


def _combine(z_QR: Tensor, hidden_QJ: Tensor) -> Tensor:
    """(Q, 3) float32: sum_j h_j Z_cj + Z_c0."""
    z_Q3 = z_QR.view(len(z_QR), 3, -1)
    return (z_Q3[..., :-1] @ hidden_QJ[..., None])[..., 0].float() + z_Q3[..., -1].float()
