"""Decoders: feature map and queries -> RGB, at a chosen width. One paper a file."""

from typing import Any

from anysr.decoders.arbsr import ArbSr, ArbSrConfig
from anysr.decoders.ecbsr import Ecbsr, EcbsrConfig
from anysr.decoders.liif import Liif, LiifConfig
from anysr.decoders.metasr import MetaSr, MetaSrConfig
from anysr.decoders.pixelshuffle import PixelShuffle, PixelShuffleConfig
from anysr.decoders.srno import Srno, SrnoConfig
from anysr.decoders.vdsr import Vdsr, VdsrConfig

DecoderConfig = LiifConfig | SrnoConfig | MetaSrConfig | ArbSrConfig | PixelShuffleConfig | VdsrConfig | EcbsrConfig
Decoder = Liif | Srno | MetaSr | ArbSr | PixelShuffle | Vdsr | Ecbsr

DECODERS: dict[str, tuple[Any, Any]] = {
    "liif": (LiifConfig, Liif),
    "srno": (SrnoConfig, Srno),
    "metasr": (MetaSrConfig, MetaSr),
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
    "MetaSr",
    "MetaSrConfig",
    "PixelShuffle",
    "PixelShuffleConfig",
    "Srno",
    "SrnoConfig",
    "Vdsr",
    "VdsrConfig",
]
