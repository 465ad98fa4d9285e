"""Encoders: RGB image -> feature map of the same size, at a chosen width. One paper a file."""

from anysr.encoders.edsr import Edsr, EdsrConfig

EncoderConfig = EdsrConfig
Encoder = Edsr

ENCODERS = {"edsr": (EdsrConfig, Edsr)}

__all__ = ["ENCODERS", "Edsr", "EdsrConfig", "Encoder", "EncoderConfig"]
