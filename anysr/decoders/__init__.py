"""Decoders: feature map and queries -> RGB, at a chosen width. One paper a file."""

from anysr.decoders.liif import Liif, LiifConfig

DecoderConfig = LiifConfig
Decoder = Liif

DECODERS = {"liif": (LiifConfig, Liif)}

__all__ = ["DECODERS", "Decoder", "DecoderConfig", "Liif", "LiifConfig"]
