"""Training batches as a pure function of (seed, step): what makes a resumed run exact."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would call out at import
import albumentations as A

from anysr.config import SubnetConfig
from anysr.geometry import pixel_centres
from pipeline.config import TrainingConfig
from pipeline.data.degrade import resize_bicubic
from pipeline.data.photo_map import PhotoMap

# Independent random streams of one seed.
_GROUP_STREAM, _CROP_STREAM, _ORDER_STREAM = 0, 1, 2


@dataclass(frozen=True)
class Draw:
    """What a step trains, the same on every worker.

    Attributes:
        group: index of the scale group.
        scale: one scale for the whole batch, inside the group.
        full_width: train the full network instead of the group's own subnet.
    """

    group: int
    scale: float
    full_width: bool


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


class ScaleGroupSampler:
    """Draws one group, and one scale inside it, per step."""

    def __init__(
        self,
        groups: Sequence[SubnetConfig],
        weights: Sequence[float] | None,
        full_width_probability: float,
        seed: int,
        factor: int | None = None,
    ) -> None:
        self._groups = groups
        self._factor = factor
        given = np.asarray(weights if weights is not None else [1.0] * len(groups))
        self._probabilities = given / given.sum()
        self._full_width_probability = full_width_probability
        self._seed = seed

    def draw(self, step: int) -> Draw:
        """The draw of a step, whatever was drawn before."""
        rng = np.random.default_rng((self._seed, _GROUP_STREAM, step))
        group = int(rng.choice(len(self._groups), p=self._probabilities))
        scale = float(self._factor or rng.uniform(*self._groups[group].scales))
        return Draw(group, scale, bool(rng.random() < self._full_width_probability))


class StepBatches(Dataset[Batch]):
    """Item ``step`` is the share of this worker in that step's batch."""

    def __init__(self, photos: PhotoMap, config: TrainingConfig, rank: int = 0, world_size: int = 1) -> None:
        self._photos = photos
        self._crop_px = config.data.lr_crop_px
        self._num_queries = config.data.queries_per_crop
        self._seed = config.train.seed
        self._batch_size = config.train.batch_size
        share = self._batch_size // world_size
        self._mine = range(rank * share, (rank + 1) * share)
        self.sampler = ScaleGroupSampler(
            config.model.subnets,
            config.sampling.group_weights,
            config.sampling.full_width_probability,
            self._seed,
            config.factor,
        )

    def __getitem__(self, step: int) -> Batch:
        draw = self.sampler.draw(step)
        hr_px = round(self._crop_px * draw.scale)
        crops = [self._crop(step, i, hr_px) for i in self._mine]
        lr, coord, target, names = zip(*crops, strict=True)
        return Batch(
            draw,
            torch.from_numpy(np.stack(lr)).permute(0, 3, 1, 2).contiguous(),
            torch.stack(coord),
            torch.from_numpy(np.stack(target)),
            hr_px,
            names,
        )

    def _crop(
        self, step: int, index: int, hr_px: int
    ) -> tuple[npt.NDArray[np.uint8], Tensor, npt.NDArray[np.uint8], str]:
        rng = np.random.default_rng((self._seed, _CROP_STREAM, step, index))
        photo = self._photo(step * self._batch_size + index)
        augment = _augmentation(hr_px)
        augment.set_random_seed(int(rng.integers(2**31)))
        hr = augment(image=self._photos[photo])["image"]
        lr = resize_bicubic(np.ascontiguousarray(hr), (self._crop_px, self._crop_px))
        chosen = rng.choice(hr_px * hr_px, self._num_queries, replace=False, shuffle=False)
        rows, cols = np.divmod(chosen, hr_px)
        centres = pixel_centres(hr_px)
        coord = torch.stack([centres[torch.from_numpy(rows)], centres[torch.from_numpy(cols)]], dim=-1)
        return lr, coord, hr[rows, cols], self._photos.names[photo]

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


@lru_cache(maxsize=512)
def _augmentation(hr_px: int) -> A.Compose:
    """Random crop and the eight flips and transposes. Re-seeded for each crop: its stream is not ours."""
    return A.Compose([A.RandomCrop(hr_px, hr_px), A.SquareSymmetry(p=1.0)], seed=0)


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, num_photos: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, _ORDER_STREAM, epoch)).permutation(num_photos)
