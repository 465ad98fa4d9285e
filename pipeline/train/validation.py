"""Scores on validation photos: own subnet, full network and bicubic, the photos spread over the workers.

An image is scored as jobs/evaluate.py scores it, with the same numbers, whatever the number of workers.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import nn

import anysr
from anysr import AnySR
from pipeline.config import TrainingConfig, ValidationConfig
from pipeline.data.photo_map import PhotoMap
from pipeline.data.photos import Pixels
from pipeline.evaluation.protocols import EXACT_DB, ScoringProtocol, protocol_for
from pipeline.evaluation.scales import Scale
from pipeline.evaluation.scoring import exact_arithmetic, shrunk, value
from pipeline.evaluation.upscalers import Bicubic, Network
from pipeline.train.context import WorkerContext


class Photos(Protocol):
    """HR photos by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pixels: ...


@dataclass(frozen=True)
class Score:
    """Mean PSNR over the photos at one scale, in dB.

    Attributes:
        scale: both axes.
        bicubic: Pillow's bicubic enlargement; images that come back exactly count as ``EXACT_DB``, here and below.
        own: the subnet of this scale's group.
        full: the full network.
        macs_saved: fraction of the full network's multiply-adds that the own subnet saves.
    """

    scale: float
    bicubic: float
    own: float
    full: float
    macs_saved: float

    def line(self) -> str:
        """As plain text."""
        return f"x{self.scale:g}  bicubic {self.bicubic:.2f}  subnet {self.own:.2f}  full {self.full:.2f} dB"


def protocol_of(config: ValidationConfig) -> ScoringProtocol:
    """How validation photos are scored."""
    return protocol_for(config.protocol, config.suite)


def in_words(config: ValidationConfig) -> str:
    """What the scores are, to be printed beside them."""
    return f"PSNR in dB, {protocol_of(config)}; LR by Pillow's bicubic"


def share_running_statistics(model: AnySR, context: WorkerContext) -> None:
    """Give every worker the first one's batch statistics, where a network has any; each saw its own crops alone."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms or context.world_size == 1:
        return
    statistics = [buffer for norm in norms for buffer in norm.buffers()]
    first = context.gather([buffer.cpu() for buffer in statistics] if context.rank == 0 else [])
    for buffer, agreed in zip(statistics, first, strict=True):
        buffer.copy_(agreed)


def validate(model: AnySR, photos: PhotoMap, config: TrainingConfig, context: WorkerContext) -> list[Score]:
    """Score the network at each scale; every worker calls this and gets all scores."""
    protocol, crop_px = protocol_of(config.validation), config.validation.crop_px
    tasks = [(scale, index) for scale in config.scales for index in range(len(photos))]
    with exact_arithmetic():
        mine = [
            (scale, index, psnrs(model, central_crop(photos[index], crop_px), scale, protocol))
            for scale, index in tasks[context.rank :: context.world_size]
        ]
    by_scale: dict[float, list[tuple[float, float, float]]] = defaultdict(list)
    for scale, _, values in sorted(context.gather(mine)):
        by_scale[scale].append(values)
    return [_mean_score(model, scale, by_scale[scale]) for scale in config.scales]


def _mean_score(model: AnySR, scale: float, values: list[tuple[float, float, float]]) -> Score:
    bicubic, own, full = (float(mean) for mean in np.mean(values, axis=0))
    return Score(scale, bicubic, own, full, saved(model, scale))


def psnrs(model: AnySR, hr: Pixels, scale: float, protocol: ScoringProtocol) -> tuple[float, float, float]:
    """PSNR of bicubic, own subnet and full network on one photo."""
    both = Scale(scale, scale)
    lr, target = shrunk(hr, both, "pil")
    size = (target.shape[1], target.shape[2])
    network = Network(model, "the network in training", digest="", file=Path())

    def decibels(upscaler: Bicubic | Network, subnet: str) -> float:
        return min(EXACT_DB, value("psnr", upscaler.enlarge(lr, both, size, subnet), target, both, protocol))

    own = decibels(network, "auto")
    alike = network.index("auto", both) == network.index("full", both)
    return decibels(Bicubic("pil"), "full"), own, own if alike else decibels(network, "full")


def metric_values(scores: list[Score], config: ValidationConfig) -> dict[str, float]:
    """Scores under their metric names."""
    values: dict[str, float] = {}
    for score in scores:
        name = f"eval/{config.suite}_x{score.scale:g}/psnr_{protocol_of(config).channel}"
        values |= {name: score.own, f"{name}_full": score.full, f"{name}_bicubic": score.bicubic}
    return values


def saved(model: AnySR, scale: float, lr_side_px: int = 256) -> float:
    """Fraction of the full network's multiply-adds that this scale's own subnet saves."""
    size = (lr_side_px, lr_side_px)
    return 1 - anysr.cost(model, size, scale).macs / anysr.cost(model, size, scale, "full").macs


def central_crop(pixels: Pixels, side_px: int | None) -> Pixels:
    """The central square of a photo, or all of it for None."""
    if side_px is None:
        return pixels
    height, width = pixels.shape[:2]
    top, left = max(0, (height - side_px) // 2), max(0, (width - side_px) // 2)
    return pixels[top : top + side_px, left : left + side_px]
