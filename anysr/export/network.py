"""A subnet as graphs: what is computed once per image, and the rows of its enlargement."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anysr.colour import recolour
from anysr.export.decoders import graph_of
from anysr.export.places import Grid
from anysr.model import AnySR

ALL_ROWS, WHOLE_IMAGE = (0, 2**31), (0, 0)


class Prepare(nn.Module):
    """(lr, scale, size) to the features and whatever else the decoder needs of the whole image."""

    def __init__(self, network: AnySR) -> None:
        """Take a network of one subnet, see ``AnySR.extract``."""
        super().__init__()
        self.colour, self.width = network.config.colour, network.subnets[0].encoder_channels
        self.encoder, self.decoder = network.encoder, graph_of(network.decoder)

    def forward(self, lr: Tensor, scale: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        image = recolour(lr, self.colour.to_network, dim=1)
        given = image if self.colour.to_encoder is None else recolour(image, self.colour.to_encoder, dim=1)
        feat = self.encoder(given, scale, self.width)
        if not self.decoder.state_shapes:
            return (feat,)
        grid = Grid.of(lr, scale, size)
        return feat, *self.decoder.prepare(feat, grid)


class Answer(nn.Module):
    """Rows [top, bottom) of the enlargement, (1, 3, R, W) RGB in [0, 1], from what ``Prepare`` answers."""

    def __init__(self, network: AnySR) -> None:
        super().__init__()
        self.colour, self.decoder = network.config.colour, graph_of(network.decoder)
        self.factor = network.config.fixed_factor

    def forward(
        self, lr: Tensor, scale: Tensor, size: Tensor, rows: Tensor | None, window: Tensor | None, *prepared: Tensor
    ) -> Tensor:
        if self.factor is not None:
            scale, size = torch.full((2,), float(self.factor), dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
        grid = Grid.of(lr, scale, size, rows, window)
        image = recolour(lr, self.colour.to_network, dim=1)
        rgb_3RW = self.decoder.answer(prepared[0], image, prepared[1:], grid)
        return recolour(rgb_3RW, self.colour.to_rgb, dim=0)[None]


class Enlarge(nn.Module):
    """(lr, scale, size) to the whole enlargement."""

    def __init__(self, network: AnySR) -> None:
        super().__init__()
        self.prepare, self.answer = Prepare(network), Answer(network)

    def forward(self, lr: Tensor, scale: Tensor, size: Tensor) -> Tensor:
        sr: Tensor = self.answer(lr, scale, size, None, None, *self.prepare(lr, scale, size))
        return sr
