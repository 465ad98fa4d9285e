"""AnySR: any-scale, any-resource super-resolution (2407.04241) in plain PyTorch."""

from anysr.colour import ColourConfig
from anysr.config import ModelConfig, SubnetConfig
from anysr.cost import Cost, cost
from anysr.decoders import (
    ArbSrConfig,
    EcbsrConfig,
    LiifConfig,
    MetaSrConfig,
    PixelShuffleConfig,
    SrnoConfig,
    VdsrConfig,
)
from anysr.encoders import EdsrConfig, RcanConfig, RdnConfig, RgbConfig
from anysr.interweave import InterweaveConfig
from anysr.model import AnySR, Subnet, build
from anysr.serialization import list_pretrained, load, save
from anysr.zoo import list_models

__all__ = [
    "AnySR",
    "ArbSrConfig",
    "ColourConfig",
    "Cost",
    "EcbsrConfig",
    "EdsrConfig",
    "InterweaveConfig",
    "LiifConfig",
    "MetaSrConfig",
    "ModelConfig",
    "PixelShuffleConfig",
    "RcanConfig",
    "RdnConfig",
    "RgbConfig",
    "SrnoConfig",
    "Subnet",
    "SubnetConfig",
    "VdsrConfig",
    "build",
    "cost",
    "list_models",
    "list_pretrained",
    "load",
    "save",
]
__version__ = "0.1.0"
