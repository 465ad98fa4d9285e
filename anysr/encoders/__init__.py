"""Encoders: RGB image -> feature map of the same size, at a chosen width. One paper a file."""

from typing import Any

from anysr.encoders.edsr import Edsr, EdsrConfig
from anysr.encoders.rcan import Rcan, RcanConfig
from anysr.encoders.rdn import Rdn, RdnConfig
from anysr.encoders.rgb import Rgb, RgbConfig

EncoderConfig = EdsrConfig | RdnConfig | RcanConfig | RgbConfig
Encoder = Edsr | Rdn | Rcan | Rgb

ENCODERS: dict[str, tuple[Any, Any]] = {
    "edsr": (EdsrConfig, Edsr),
    "rdn": (RdnConfig, Rdn),
    "rcan": (RcanConfig, Rcan),
    "rgb": (RgbConfig, Rgb),
}

__all__ = [
    "ENCODERS",
    "Edsr",
    "EdsrConfig",
    "Encoder",
    "EncoderConfig",
    "Rcan",
    "RcanConfig",
    "Rdn",
    "RdnConfig",
    "Rgb",
    "RgbConfig",
]
