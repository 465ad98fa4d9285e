"""Training batches as a pure function of (seed, step): what makes a resumed run exact."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would call out at import

# The functions, not the transforms: those keep random streams of their own, and seeding them for
# each crop costs more than the crop.
from albumentations.augmentations.crops.functional import crop as cut
from albumentations.augmentations.geometric.functional import d4

from anysr.geometry import pixel_centres
from pipeline.config import TrainingConfig
from pipeline.data.degradations import degraded
from pipeline.data.degrade import resize_bicubic
from pipeline.data.draws import Draw, ScaleGroupSampler
from pipeline.data.photo_map import PhotoMap
from pipeline.data.photos import Pixels

# Independent random streams of one seed; stream 0 draws scale groups.
_CROP_STREAM, _ORDER_STREAM = 1, 2
_SYMMETRIES: tuple[Any, ...] = ("e", "r90", "r180", "r270", "v", "hvt", "h", "t")


@dataclass(frozen=True)
class Batch:
    """One step's share of one worker, in ``len(lr)`` crops.

    Attributes:
        draw: group, scale and width.
        lr: (B, 3, c, c) uint8.
        coord: (B, Q, 2) float32, (y, x) in [-1, 1].
        target: (B, Q, 3) uint8, the HR pixels at ``coord``.
        hr_px: side of the HR crop.
        names: the photos that were cut.
    """

    draw: Draw
    lr: Tensor
    coord: Tensor
    target: Tensor
    hr_px: int
    names: tuple[str, ...]

    def to(self, device: torch.device) -> Batch:
        """The same with its tensors on a device."""
        lr, coord, target = (t.to(device, non_blocking=True) for t in (self.lr, self.coord, self.target))
        return replace(self, lr=lr, coord=coord, target=target)


class StepBatches(Dataset[Batch]):
    """Item ``step`` is the share of this worker in that step's batch."""

    def __init__(self, photos: PhotoMap, config: TrainingConfig, rank: int = 0, world_size: int = 1) -> None:
        self._photos = photos
        self._crop_px = config.data.lr_crop_px
        self._degradation = config.data.degradation
        self._num_queries = config.data.queries_per_crop
        self._seed = config.train.seed
        self._batch_size = config.train.batch_size
        share = self._batch_size // world_size
        self._mine = range(rank * share, (rank + 1) * share)
        self.sampler = ScaleGroupSampler(config)

    def __getitem__(self, step: int) -> Batch:
        draw = self.sampler.draw(step)
        hr_px = round(self._crop_px * draw.scale)
        samples = [self._crop(step, i, hr_px) for i in self._mine]
        lr, chosen, target, names = zip(*samples, strict=True)
        return Batch(
            draw,
            torch.from_numpy(np.stack(lr)).permute(0, 3, 1, 2).contiguous(),
            _coordinates(np.stack(chosen), hr_px),
            torch.from_numpy(np.stack(target)),
            hr_px,
            names,
        )

    def _crop(self, step: int, index: int, hr_px: int) -> tuple[Pixels, npt.NDArray[np.int64], Pixels, str]:
        """LR crop, indices of the queried HR pixels, their colours, and the photo's name."""
        rng = np.random.default_rng((self._seed, _CROP_STREAM, step, index))
        number = self._photo(step * self._batch_size + index)
        photo = self._photos[number]
        top, left = (int(rng.integers(side - hr_px + 1)) for side in photo.shape[:2])
        crop = cut(photo, left, top, left + hr_px, top + hr_px)
        hr = np.ascontiguousarray(d4(crop, _SYMMETRIES[int(rng.integers(8))]))
        chosen = rng.choice(hr_px * hr_px, self._num_queries, replace=False, shuffle=False)
        # Last, because each fault draws as much as it needs.
        seen = degraded(hr, self._degradation, rng) if self._degradation.is_on else hr
        lr = resize_bicubic(seen, (self._crop_px, self._crop_px))
        return lr, chosen, hr.reshape(-1, 3).take(chosen, axis=0), self._photos.names[number]

    def _photo(self, position: int) -> int:
        """Every photo once per epoch, each epoch in an order of its own."""
        epoch, place = divmod(position, len(self._photos))
        return int(_epoch_order(self._seed, epoch, len(self._photos))[place])


def batches_from(dataset: StepBatches, steps: range, loader_processes: int) -> Iterator[Batch]:
    """Batches of the given steps in order, prepared ahead when there are loader processes."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=steps,
        num_workers=loader_processes,
        prefetch_factor=4 if loader_processes else None,
    )
    return iter(loader)


def _coordinates(chosen_BQ: npt.NDArray[np.int64], hr_px: int) -> Tensor:
    """(B, Q, 2) centres of the pixels with these flat indices in a square crop."""
    centres = pixel_centres(hr_px)
    rows, cols = np.divmod(chosen_BQ, hr_px)
    return torch.stack([centres[torch.from_numpy(rows)], centres[torch.from_numpy(cols)]], dim=-1)


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, num_photos: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, _ORDER_STREAM, epoch)).permutation(num_photos)
