"""Decoders: feature map and queries -> RGB, at a chosen width. One paper a file."""

from anysr.decoders.liif import Liif, LiifConfig
from anysr.decoders.metasr import MetaSr, MetaSrConfig
from anysr.decoders.srno import Srno, SrnoConfig

DecoderConfig = LiifConfig | SrnoConfig | MetaSrConfig
Decoder = Liif | Srno | MetaSr

DECODERS = {"liif": (LiifConfig, Liif), "srno": (SrnoConfig, Srno), "metasr": (MetaSrConfig, MetaSr)}

__all__ = [
    "DECODERS",
    "Decoder",
    "DecoderConfig",
    "Liif",
    "LiifConfig",
    "MetaSr",
    "MetaSrConfig",
    "Srno",
    "SrnoConfig",
]
