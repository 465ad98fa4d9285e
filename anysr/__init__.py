"""AnySR: any-scale, any-resource super-resolution (2407.04241) in plain PyTorch."""

from anysr.config import ModelConfig, SubnetConfig
from anysr.cost import Cost, cost
from anysr.decoders import LiifConfig, MetaSrConfig, SrnoConfig
from anysr.encoders import EdsrConfig
from anysr.interweave import InterweaveConfig
from anysr.model import AnySR, Subnet, build
from anysr.serialization import load, save

__all__ = [
    "AnySR",
    "Cost",
    "EdsrConfig",
    "InterweaveConfig",
    "LiifConfig",
    "MetaSrConfig",
    "ModelConfig",
    "SrnoConfig",
    "Subnet",
    "SubnetConfig",
    "build",
    "cost",
    "load",
    "save",
]
__version__ = "0.1.0"
