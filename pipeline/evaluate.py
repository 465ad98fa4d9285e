"""Scores on validation photos: own subnet, full network and bicubic, the photos spread over the workers."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

import anysr
from anysr import AnySR
from anysr.metrics import psnr
from pipeline.config import TrainingConfig
from pipeline.data.degrade import lr_hr_pair, resize_bicubic
from pipeline.data.photo_map import PhotoMap
from pipeline.data.photos import Pixels
from pipeline.train.context import WorkerContext

PROTOCOL = "PSNR in dB on Y (BT.601), border = scale rounded up, floats; LR by Pillow's bicubic"
_MOST_DB = 100.0  # stands for no error at all, as at ×1


class Photos(Protocol):
    """HR photos by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pixels: ...


@dataclass(frozen=True)
class Score:
    """Mean PSNR over the photos at one scale, in dB.

    Attributes:
        scale: both axes.
        bicubic: Pillow's bicubic enlargement.
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


def validate(model: AnySR, photos: PhotoMap, config: TrainingConfig, context: WorkerContext) -> list[Score]:
    """Score the network at each scale; every worker calls this and gets all scores."""
    tasks = [(scale, index) for scale in config.scales for index in range(len(photos))]
    mine = [
        (scale, index, psnrs(model, central_crop(photos[index], config.validation.crop_px), scale, context.device))
        for scale, index in tasks[context.rank :: context.world_size]
    ]
    by_scale: dict[float, list[tuple[float, float, float]]] = defaultdict(list)
    for scale, _, values in sorted(context.gather(mine)):
        by_scale[scale].append(values)
    return [_mean_score(model, scale, by_scale[scale]) for scale in config.scales]


def _mean_score(model: AnySR, scale: float, values: list[tuple[float, float, float]]) -> Score:
    bicubic, own, full = (float(mean) for mean in np.mean(values, axis=0))
    return Score(scale, bicubic, own, full, saved(model, scale))


@torch.no_grad()
def psnrs(model: AnySR, hr: Pixels, scale: float, device: torch.device) -> tuple[float, float, float]:
    """PSNR of bicubic, own subnet and full network on one photo."""
    lr, target = lr_hr_pair(hr, scale)
    size = (target.shape[0], target.shape[1])
    border = math.ceil(scale)
    lr_13hw, hr_3HW = to_tensor(lr, device)[None], to_tensor(target, device)
    answers = [to_tensor(resize_bicubic(lr, size), device)]
    answers += [model(lr_13hw, scale, size, subnet=subnet)[0] for subnet in ("auto", "full")]
    bicubic, own, full = (min(_MOST_DB, psnr(answer, hr_3HW, border)) for answer in answers)
    return bicubic, own, full


def metric_values(scores: list[Score], suite: str) -> dict[str, float]:
    """Scores under their metric names."""
    values: dict[str, float] = {}
    for score in scores:
        name = f"eval/{suite}_x{score.scale:g}/psnr_y"
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


def to_tensor(pixels: Pixels, device: torch.device | str = "cpu") -> Tensor:
    """(H, W, 3) uint8 to (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(pixels.copy()).to(device).permute(2, 0, 1).float() / 255
