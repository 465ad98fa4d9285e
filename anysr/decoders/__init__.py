"""Decoders: feature map and queries -> RGB, at a chosen width. One paper a file."""

from typing import Any

from anysr.decoders.arbsr import ArbSr, ArbSrConfig
from anysr.decoders.ecbsr import Ecbsr, EcbsrConfig
from anysr.decoders.liif import Liif, LiifConfig
from anysr.decoders.pixelshuffle import PixelShuffle, PixelShuffleConfig
from anysr.decoders.vdsr import Vdsr, VdsrConfig

DecoderConfig = LiifConfig | ArbSrConfig | PixelShuffleConfig | VdsrConfig | EcbsrConfig
Decoder = Liif | ArbSr | PixelShuffle | Vdsr | Ecbsr

DECODERS: dict[str, tuple[Any, Any]] = {
    "liif": (LiifConfig, Liif),
    "arbsr": (ArbSrConfig, ArbSr),
    "pixelshuffle": (PixelShuffleConfig, PixelShuffle),
    "vdsr": (VdsrConfig, Vdsr),
    "ecbsr": (EcbsrConfig, Ecbsr),
}

__all__ = [
    "DECODERS",
    "ArbSr",
    "ArbSrConfig",
    "Decoder",
    "DecoderConfig",
    "Ecbsr",
    "EcbsrConfig",
    "Liif",
    "LiifConfig",
    "PixelShuffle",
    "PixelShuffleConfig",
    "Vdsr",
    "VdsrConfig",
]
