"""No encoder: the image itself, for networks that are all decoder (VDSR, ECBSR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from anysr.encoders.tiles import Progress, Tile
from anysr.fields import set_typed
from anysr.geometry import Pair
from anysr.interweave import InterweaveConfig


@dataclass(frozen=True)
class RgbConfig:
    """There is nothing to set and nothing to narrow."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Literal["rgb"] = "rgb"

    def __post_init__(self) -> None:
        set_typed(self, "encoder")

    @property
    def slim_channels(self) -> int:
        """One, so that every subnet has the same."""
        return 1

    def narrowed(self, width: int) -> RgbConfig:
        """Itself."""
        return self


class Rgb(nn.Module):
    """Hands the image on."""

    out_channels = 3

    def __init__(self, config: RgbConfig, interweave: InterweaveConfig | None) -> None:
        super().__init__()
        if interweave is not None:
            raise ValueError('encoder kind "rgb" has no features to interweave the scale with; set interweave to None')
        self.config = config

    def forward(self, image_B3HW: Tensor, scale: Pair, width: int) -> Tensor:
        """The image in the network's colour range, (B, 3, h, w)."""
        return image_B3HW

    def in_tiles(self, image_13hw: Tensor, scale: Pair, width: int, tile: Tile, progress: Progress) -> Tensor:
        """The image."""
        return image_13hw

    def window_channels(self, width: int) -> int:
        """Nothing is computed."""
        return 0

    def kept_channels(self, width: int) -> int:
        """Nothing is kept."""
        return 0

    def macs(self, lr_size: tuple[int, int], width: int) -> int:
        """Nothing."""
        return 0
