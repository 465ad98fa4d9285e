"""A training configuration that takes seconds."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config import TrainingConfig
from pipeline.config_file import load_config

OVERRIDES = (
    "model.encoder.num_blocks=2",
    "model.encoder.channels=8",
    "model.decoder.hidden=16",
    "model.decoder.num_layers=2",
    "model.decoder.skip=bilinear",
    "model.interweave.interval=4",
    "data.lr_crop_px=12",
    "data.queries_per_crop=64",
    "sampling.widths=sandwich",
    "train.steps=24",
    "train.batch_size=4",
    "train.learning_rate=1e-3",
    "train.distillation=0.3",
    "train.log_every=3",
    "train.checkpoint_every=4",
    "validation.every=12",
    "validation.scales=[1.5, 2, 4]",
    "validation.crop_px=48",
)


def tiny_config(*overrides: str, base: Sequence[str] = OVERRIDES) -> TrainingConfig:
    return load_config(None, [*base, *overrides])
