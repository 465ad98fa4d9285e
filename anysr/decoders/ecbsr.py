"""ECBSR (ACM MM 2021, doi 10.1145/3474085.3475291): edge-oriented blocks, plain convolutions once trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anysr.decoders.fixed_scale import answer, by_image, check_factor, in_strips, luma
from anysr.decoders.grid import Rows
from anysr.decoders.vdsr import bicubic
from anysr.fields import set_typed
from anysr.geometry import GridQueries, Queries

# Sobel along x and y, and the Laplacian, per channel.
_EDGES = (
    ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0)),
    ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0)),
    ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0)),
)


_BLOCK_PIXELS = 262144  # LR pixels a strip; bounds the memory


@dataclass(frozen=True)
class EcbsrConfig:
    """ECBSR-MmCc is m blocks of c channels; published from M4C8 to M16C64, on the luma.

    Attributes:
        factor: the only enlargement it makes.
        num_blocks: blocks between the first and the last.
        channels: width between them.
        colours: 1 works on the luma and leaves the colour differences bicubic, as published; 3 on RGB.
        collapsed: each block as the one 3x3 convolution that it equals; see ``AnySR.fuse``.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Literal["ecbsr"] = "ecbsr"
    factor: int = 2
    num_blocks: int = 4
    channels: int = 16
    colours: Literal[1, 3] = 1
    collapsed: bool = False

    def __post_init__(self) -> None:
        set_typed(self, "decoder")
        if min(self.num_blocks, self.channels) < 1 or self.factor < 2:
            raise ValueError(
                "decoder.num_blocks and channels must be at least 1 and factor at least 2, got "
                f"{self.num_blocks}, {self.channels} and {self.factor}"
            )

    @property
    def slim_channels(self) -> int:
        """One: there is nothing to narrow."""
        return 1

    def narrowed(self, width: int) -> EcbsrConfig:
        """Itself."""
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """Channels before, between and after the convolutions."""
        return (self.colours, *[self.channels] * (self.num_blocks + 1), self.colours * self.factor**2)


class EdgeBlock(nn.Module):
    """The sum of a 3x3, a widened 1x1-3x3 and three 1x1-edge-filter branches: linear, so one 3x3 in the end.

    The input is padded before the 1x1 layers: their biases then stand in the border too, without which
    the collapsed form would differ there.
    """

    edges: Tensor

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.plain = nn.Conv2d(num_in, num_out, 3)
        self.widen = nn.Conv2d(num_in, 2 * num_out, 1)
        self.squeeze = nn.Conv2d(2 * num_out, num_out, 3)
        self.project = nn.ModuleList(nn.Conv2d(num_in, num_out, 1) for _ in _EDGES)
        self.edge_scale = nn.Parameter(torch.randn(len(_EDGES), num_out) * 1e-3)
        self.edge_bias = nn.Parameter(torch.randn(len(_EDGES), num_out) * 1e-3)
        self.register_buffer("edges", torch.tensor(_EDGES), persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        padded = F.pad(x_BCHW, (1, 1, 1, 1))
        total = self.plain(padded) + self.squeeze(self.widen(padded))
        for i, project in enumerate(self.project):
            kernel = self.edge_scale[i][:, None, None, None] * self.edges[i]
            total = total + F.conv2d(project(padded), kernel, self.edge_bias[i], groups=len(kernel))
        return total

    def collapse(self) -> nn.Conv2d:
        """The one convolution that it equals; computed in float64."""
        kernel, bias = self.plain.weight.double(), _bias(self.plain)
        squeeze = self.squeeze.weight.double()
        kernel = kernel + torch.einsum("odyx,di->oiyx", squeeze, self.widen.weight.double()[..., 0, 0])
        bias = bias + _bias(self.squeeze) + squeeze.sum((2, 3)) @ _bias(self.widen)
        for i, project in enumerate(self.project):
            assert isinstance(project, nn.Conv2d)
            scale, edge = self.edge_scale[i].double(), self.edges[i].double()
            kernel = kernel + torch.einsum("o,yx,oi->oiyx", scale, edge, project.weight.double()[..., 0, 0])
            bias = bias + scale * edge.sum() * _bias(project) + self.edge_bias[i].double()
        conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1).to(self.plain.weight)
        conv.load_state_dict({"weight": kernel.to(conv.weight.dtype), "bias": bias.to(conv.weight.dtype)})
        return conv.requires_grad_(any(weight.requires_grad for weight in self.parameters()))


class Ecbsr(nn.Module):
    """The image to RGB at ``config.factor``."""

    def __init__(self, config: EcbsrConfig, feat_channels: int) -> None:
        super().__init__()
        if feat_channels != 3:
            raise ValueError('decoder kind "ecbsr" enlarges the image itself; set encoder kind "rgb"')
        self.config = config
        pairs = list(itertools.pairwise(config.sizes))
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) if config.collapsed else EdgeBlock(a, b) for a, b in pairs
        )
        self.activations = nn.ModuleList(nn.PReLU(b) for _, b in pairs[:-1])

    def forward(self, feat_BDhw: Tensor, image_B3hw: Tensor, queries: Queries, width: int) -> Tensor:
        """RGB in the network's colour range: (B, 3, H, W) for a grid, (B, Q, 3) for points.

        Points are answered by the pixel that they lie in, from the whole image.

        Raises:
            ValueError: the queries are not those of an image ``config.factor`` times as large.
        """
        return answer(self._strips(image_B3hw, queries), queries)

    def rows(self, feat_BDhw: Tensor, image_B3hw: Tensor, queries: GridQueries, width: int) -> Iterator[Rows]:
        """The answer for a grid strip by strip."""
        return by_image(self._strips(image_B3hw, queries))

    def _strips(self, image_B3hw: Tensor, queries: Queries) -> Iterator[tuple[int, Tensor]]:
        height, columns = image_B3hw.shape[-2:]
        check_factor((height, columns), queries.size, self.config.factor)
        # The bicubic colours look two pixels far, less than all layers together do.
        halo = max(3, len(self.layers))
        return in_strips(image_B3hw, self._enlarge, self.config.factor, max(64, _BLOCK_PIXELS // columns), halo)

    def _enlarge(self, image_B3hw: Tensor) -> Tensor:
        sharp = self.sharpened(image_B3hw)
        size = (sharp.shape[-2], sharp.shape[-1])
        return (sharp if self.config.colours == 3 else _with_luma(bicubic(image_B3hw, size), sharp)).float()

    def sharpened(self, image_B3hw: Tensor) -> Tensor:
        """(B, 1 or 3, H, W): the enlarged luma, or RGB."""
        given = luma(image_B3hw) if self.config.colours == 1 else image_B3hw
        given = given.to(next(self.parameters()).dtype)
        deep = given
        for layer, activation in zip(self.layers, self.activations, strict=False):
            deep = activation(layer(deep))
        # Every output pixel starts from the input pixel above it, as published.
        deep = self.layers[-1](deep) + given.repeat_interleave(self.config.factor**2, dim=1)
        return F.pixel_shuffle(deep, self.config.factor)

    def collapse(self) -> Ecbsr:
        """The same network of plain convolutions."""
        plain = Ecbsr(replace(self.config, collapsed=True), 3)
        plain.layers = nn.ModuleList(
            layer.collapse() if isinstance(layer, EdgeBlock) else layer for layer in self.layers
        )
        plain.activations = self.activations
        return plain.train(self.training)

    def macs(self, lr_size: tuple[int, int], size: tuple[int, int], width: int) -> int:
        """Multiply-adds of one image, collapsed, as its paper counts."""
        check_factor(lr_size, size, self.config.factor)
        sizes = self.config.sizes
        return lr_size[0] * lr_size[1] * 9 * sum(a * b for a, b in itertools.pairwise(sizes))

    def executed_macs(self, lr_size: tuple[int, int], size: tuple[int, int], width: int) -> int:
        """Multiply-adds of the form that this network is in."""
        if self.config.collapsed:
            return self.macs(lr_size, size, width)
        pairs = itertools.pairwise(self.config.sizes)
        # In turn: 3x3; widened 1x1 and its 3x3; the 1x1 of each edge branch and its filter.
        per_pixel = sum(9 * a * b + 2 * a * b + 18 * b * b + len(_EDGES) * (a * b + 9 * b) for a, b in pairs)
        return lr_size[0] * lr_size[1] * per_pixel


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias.double()


def _with_luma(rgb_B3HW: Tensor, luma_B1HW: Tensor) -> Tensor:
    """The same colour differences under another luma."""
    return rgb_B3HW + (luma_B1HW - luma(rgb_B3HW))
