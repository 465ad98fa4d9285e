"""ArbSR's scale-aware upsampler (2004.03791, section 3.3), in an exact, faster form.

As published, a small network turns (1/s_w, 1/s_h, the pixel's fractional offsets) into an (x, y) shift
and four routing weights r_e; the features f sampled at the shifted place get
f + E(r) C(r) f, with E(r) = sum r_e E_e and C(r) = sum r_e C_e; a 3x3 convolution T gives RGB.

Two identities save most of it. C, E and T are linear, so C_e f and T f are computed once per LR pixel
and sampled instead of f, and T E_e is one small matrix: T (f + E C f) = T f + sum_e r_e (T E_e) (sum_e r_e C_e f).
And on a grid the shift and the routing repeat with the fractional offsets: they are computed once
for each distinct pair of row and column offsets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.decoders.grid import Rows, assemble
from anysr.fields import set_typed
from anysr.geometry import GridQueries, Pair, PointQueries, Queries, scale_of
from anysr.slimmable import SlimConv2d

NUM_EXPERTS = 4
_BODY = 64  # hidden units of the routing network
TAPS = 9  # of the last convolution
# HR pixels a block (an accelerator takes longer ones), and distinct offset pairs routed at once: bounds on the memory.
_BLOCK_PIXELS, _ACCELERATOR_BLOCK_PIXELS = 2**16, 2**18
_MAX_PAIRS = 65536
# Guards the floor against rounding, as the release does.
FLOOR_SHIFT = 1e-3


@dataclass(frozen=True)
class ArbSrConfig:
    """ArbSR's upsampler; published: 4 experts with a bottleneck of 64 / 8 channels.

    Attributes:
        bottleneck: channels between an expert's two filters, narrowed by subnets.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Literal["arbsr"] = "arbsr"
    bottleneck: int = 8

    def __post_init__(self) -> None:
        set_typed(self, "decoder")
        if self.bottleneck < 1:
            raise ValueError(f"decoder.bottleneck must be at least 1, got {self.bottleneck}")

    @property
    def slim_channels(self) -> int:
        """The width that subnets take a fraction of."""
        return self.bottleneck

    def narrowed(self, width: int) -> ArbSrConfig:
        """The configuration of the physically smaller decoder."""
        return replace(self, bottleneck=width)


class ArbSr(nn.Module):
    """Features and queries to RGB.

    Shapes: B images, D feature channels, E experts, K bottleneck channels, Q queries, h x w features,
    H x W grid. Parameters are named as in the release, but for the experts' trailing 1 x 1.
    """

    def __init__(self, config: ArbSrConfig, feat_channels: int) -> None:
        super().__init__()
        self.config = config
        self.feat_channels = feat_channels
        self.body0 = SlimConv2d(4, _BODY, 1)
        self.body2 = SlimConv2d(_BODY, _BODY, 1)
        self.routing = SlimConv2d(_BODY, NUM_EXPERTS, 1)
        self.offset = SlimConv2d(_BODY, 2, 1)
        self.compress = nn.Parameter(torch.empty(NUM_EXPERTS, config.bottleneck, feat_channels))
        self.expand = nn.Parameter(torch.empty(NUM_EXPERTS, feat_channels, config.bottleneck))
        for experts in (self.compress, self.expand):
            for expert in experts:
                nn.init.kaiming_uniform_(expert, a=5**0.5)
        self.tail = SlimConv2d(feat_channels, 3, 3)

    def forward(self, feat_BDhw: Tensor, image_B3hw: Tensor, queries: Queries, width: int) -> Tensor:
        """RGB in the network's colour range, float32: (B, 3, H, W) for a grid, (B, Q, 3) for points.

        Args:
            feat_BDhw: the encoder's features.
            image_B3hw: not read.
            queries: where to answer, and for which scale.
            width: bottleneck channels K, at most ``config.bottleneck``.
        """
        if isinstance(queries, GridQueries):
            rows = self.rows(feat_BDhw, image_B3hw, queries, width)
            if not torch.is_grad_enabled():
                return assemble(rows, len(feat_BDhw), queries.size, feat_BDhw.device)
            by_image: list[list[Tensor]] = [[] for _ in feat_BDhw]
            for piece in rows:
                by_image[piece.image].append(piece.rgb)
            return torch.stack([torch.cat(parts, dim=1) for parts in by_image])
        table_BChw, mixed = self._project(feat_BDhw, width)
        return self._decode_points(table_BChw, mixed, queries, scale_of(queries, feat_BDhw))

    def rows(self, feat_BDhw: Tensor, image_B3hw: Tensor, queries: GridQueries, width: int) -> Iterator[Rows]:
        """The answer for a grid strip by strip."""
        table_BChw, mixed = self._project(feat_BDhw, width)
        yield from self._grid_rows(table_BChw, mixed, queries.size, scale_of(queries, feat_BDhw))

    def macs(self, lr_size: tuple[int, int], size: tuple[int, int], width: int) -> int:
        """Multiply-adds of one image as published: routing, mixing and filters on every pixel."""
        routing = _BODY * (4 + _BODY + NUM_EXPERTS + 2)
        filters = 2 * self.feat_channels * width
        return size[0] * size[1] * (routing + (NUM_EXPERTS + 1) * filters + TAPS * 3 * self.feat_channels)

    def executed_macs(self, lr_size: tuple[int, int], size: tuple[int, int], width: int) -> int:
        """Multiply-adds spent here on the same answer; routing counted as if no offset repeated."""
        per_query = _BODY * (4 + _BODY + NUM_EXPERTS + 2) + NUM_EXPERTS * width * (3 * TAPS + 2)
        per_lr_pixel = self.feat_channels * (3 * TAPS + NUM_EXPERTS * width)
        return size[0] * size[1] * per_query + lr_size[0] * lr_size[1] * per_lr_pixel

    def _project(self, feat_BDhw: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """[T f, C f] once per LR pixel, (B, 27 + E K, h, w), and T E, (27, E K); rows of T are (tap, colour)."""
        taps_27D = self.tail.weight.permute(2, 3, 0, 1).reshape(3 * TAPS, -1)
        compress = self.compress[:, :width].reshape(-1, self.feat_channels)
        table = F.conv2d(feat_BDhw, torch.cat([taps_27D, compress])[:, :, None, None])
        return table, taps_27D @ self.expand[..., :width].transpose(0, 1).reshape(self.feat_channels, -1)

    def _route(self, frac_y: Tensor, frac_x: Tensor, scale: Pair) -> tuple[Tensor, Tensor]:
        """Shift in LR pixels (x, y), (B, 2, ...), and routing weights, (B, E, ...), of fractional offsets.

        Args:
            frac_y: (B, P, R) or what broadcasts to it, like ``frac_x``.
            frac_x: the columns' offsets.
            scale: (s_h, s_w).
        """
        frac_y, frac_x = _broadcast(frac_y, frac_x)
        inverse = [torch.full_like(frac_y, 1 / s) for s in (scale[1], scale[0])]
        given = torch.stack([*inverse, frac_y, frac_x], dim=1).to(self.body0.weight.dtype)
        body = torch.relu(self.body2(torch.relu(self.body0(given))))
        return self.offset(body).float(), torch.sigmoid(self.routing(body))

    def _filter(self, table_BChw: Tensor, mixed: Tensor, place_B2: Tensor, routing_BE: Tensor) -> Tensor:
        """(B, 27, P, R): the last convolution's taps applied at sampled, filtered places (B, P, R)."""
        # Places need float32, and grid_sample takes one type for both.
        sampled = F.grid_sample(table_BChw.float(), place_B2.float(), align_corners=False).to(table_BChw.dtype)
        through, compressed = sampled[:, : 3 * TAPS], sampled[:, 3 * TAPS :]
        routing_BE1 = routing_BE.unsqueeze(2)
        experts_BEK = compressed.reshape(len(compressed), NUM_EXPERTS, -1, *compressed.shape[2:])
        mixed_B1K = (experts_BEK * routing_BE1).sum(1, keepdim=True)
        spread = (routing_BE1 * mixed_B1K).flatten(1, 2)
        return through + F.conv2d(spread, mixed[:, :, None, None])

    def _grid_rows(self, table_BChw: Tensor, mixed: Tensor, size: tuple[int, int], scale: Pair) -> Iterator[Rows]:
        lr_size, device = table_BChw.shape[-2:], table_BChw.device
        ys, row_phase, row_of = _phases(size[0], scale[0], device)
        xs, col_phase, col_of = _phases(size[1], scale[1], device)
        pairs = None
        if len(row_phase) * len(col_phase) <= _MAX_PAIRS:
            pairs = self._route(row_phase[None, :, None], col_phase[None, None, :], scale)
        rows = max(1, (_BLOCK_PIXELS if device.type == "cpu" else _ACCELERATOR_BLOCK_PIXELS) // size[1])
        for top in range(0, size[0], rows):
            # One more row on either side, for the last convolution; none beyond the image.
            first, last = max(0, top - 1), min(size[0], top + rows + 1)
            here = row_of[first:last]
            if pairs is None:
                routed = self._route(row_phase[None, here, None], col_phase[None, None, :], scale)
                shift, routing = (r[..., col_of] for r in routed)
            else:
                shift, routing = (r[..., here, :][..., col_of] for r in pairs)
            place = _places(ys[first:last, None], xs, shift.transpose(0, 1), lr_size)
            missing = (1, 1, 1 if top == 0 else 0, 1 if last == size[0] and top + rows >= size[0] else 0)
            for b, table in enumerate(table_BChw):
                taps = self._filter(table[None], mixed, place, routing)
                yield Rows(b, top, self._gather_taps(F.pad(taps, missing))[0])

    def _gather_taps(self, taps_B27HW: Tensor) -> Tensor:
        """The last convolution from its taps: (B, 27, H + 2, W + 2) to (B, 3, H, W), float32."""
        height, width = taps_B27HW.shape[-2] - 2, taps_B27HW.shape[-1] - 2
        rgb = self._bias(taps_B27HW).view(1, 3, 1, 1)
        for t, tap in enumerate(taps_B27HW.float().split_with_sizes([3] * TAPS, 1)):
            rgb = rgb + tap[..., t // 3 : t // 3 + height, t % 3 : t % 3 + width]
        return rgb

    def _decode_points(self, table_BChw: Tensor, mixed: Tensor, queries: PointQueries, scale: Pair) -> Tensor:
        """Nine HR neighbours of each query, each through its own tap."""
        size, coord = queries.size, queries.coord.double()
        tap = torch.arange(TAPS, device=coord.device)
        rows = ((coord[..., 0] + 1) * size[0] - 1)[..., None] / 2 + (tap // 3 - 1)
        cols = ((coord[..., 1] + 1) * size[1] - 1)[..., None] / 2 + (tap % 3 - 1)
        (ys, frac_y), (xs, frac_x) = _project_axis(rows, scale[0]), _project_axis(cols, scale[1])
        shift, routing = self._route(frac_y, frac_x, scale)
        place = _places(ys, xs, shift.transpose(0, 1), table_BChw.shape[-2:])
        taps = self._filter(table_BChw, mixed, place, routing).float()
        inside = (rows > -0.5) & (rows < size[0] - 0.5) & (cols > -0.5) & (cols < size[1] - 0.5)
        # (B, Q, 9 neighbours, 9 taps, 3) to (B, Q, 9, 3): neighbour t through tap t.
        own = taps.permute(0, 2, 3, 1).reshape(*rows.shape, TAPS, 3)[:, :, tap, tap]
        return (own * inside[..., None]).sum(2) + self._bias(own)

    def _bias(self, like: Tensor) -> Tensor:
        assert self.tail.bias is not None
        return self.tail.bias.to(like.device).float()


def _project_axis(index: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """LR positions, in pixels, and fractional offsets of HR indices; float64 in, float64 out."""
    position = (index + 0.5) / scale
    return position - 0.5, position - torch.floor(position + FLOOR_SHIFT) - 0.5


def _phases(num_pixels: int, scale: float, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(n,) LR positions of an HR axis, its (p,) distinct fractional offsets, and (n,) which is whose.

    In float64, where offsets that repeat at a rational scale agree to far better than 1e-9; the
    release's float32 ones differ from these by rounding alone.
    """
    positions, offsets = _project_axis(torch.arange(num_pixels, dtype=torch.float64, device=device), scale)
    steps, which = torch.unique(torch.round(offsets * 1e9), return_inverse=True)
    return positions, steps / 1e9, which


def _places(ys: Tensor, xs: Tensor, shift_2: Tensor, lr_size: tuple[int, ...]) -> Tensor:
    """Sampling places (..., 2), (x, y) as ``grid_sample`` takes them without aligned corners.

    The release normalises as if corners were aligned and samples as if not: LR position p is read at
    p n / (n - 1) - 1/2. Its checkpoints are trained with it. A single row or column, where the release
    divides by zero, is read at its centre.
    """
    height, width = lr_size
    y = (ys + shift_2[1]) * (2 / (height - 1)) - 1 if height > 1 else (ys + shift_2[1]) * 0
    x = (xs + shift_2[0]) * (2 / (width - 1)) - 1 if width > 1 else (xs + shift_2[0]) * 0
    return torch.stack(_broadcast(x, y), dim=-1)


def _broadcast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    shape = (a + b).shape
    return a.expand(shape), b.expand(shape)
