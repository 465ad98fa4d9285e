"""Decoders: feature map and queries -> RGB, at a chosen width. One paper a file."""

from typing import Any

from anysr.decoders.arbsr import ArbSr, ArbSrConfig
from anysr.decoders.liif import Liif, LiifConfig

DecoderConfig = LiifConfig | ArbSrConfig
Decoder = Liif | ArbSr

DECODERS: dict[str, tuple[Any, Any]] = {
    "liif": (LiifConfig, Liif),
    "arbsr": (ArbSrConfig, ArbSr),
}

__all__ = ["DECODERS", "ArbSr", "ArbSrConfig", "Decoder", "DecoderConfig", "Liif", "LiifConfig"]
