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

from anysr.geometry import Pair, pixel_centres
from pipeline.config import TrainingConfig
from pipeline.data.degradations import degraded
from pipeline.data.degrade import resize_bicubic
from pipeline.data.draws import Draw, ScaleGroupSampler
from pipeline.data.photo_map import PhotoMap
from pipeline.data.photos import Pixels

# Independent random streams of one seed; stream 0 draws scale groups.
_CROP_STREAM, _ORDER_STREAM = 1, 2
# From the stream of one crop to the next: 2^128 over the golden ratio, as PCG64.jumped takes.
_JUMP = 0x9E3779B97F4A7C15F39CC0605CEDC835

_Places = npt.NDArray[np.int64]
_SYMMETRIES: tuple[Any, ...] = ("e", "r90", "r180", "r270", "v", "hvt", "h", "t")


def _moves(symmetry: Any) -> tuple[bool, bool, bool]:
    """Whether rows become columns, and whether the new rows and columns count from the far end."""
    numbered = d4(np.arange(4, dtype=np.uint8).reshape(2, 2, 1), symmetry).reshape(2, 2)
    first, beside = (np.argwhere(numbered == n)[0] for n in range(2))
    return bool(first[0] != beside[0]), bool(first[0]), bool(first[1])


_MOVES = {symmetry: _moves(symmetry) for symmetry in _SYMMETRIES}


@dataclass(frozen=True)
class Batch:
    """What one draw gives of one worker's share in a step's batch, ``len(lr)`` crops.

    Attributes:
        draw: group, scale and width.
        lr: (B, 3, c, c) uint8.
        coord: (B, Q, 2) float32, (y, x) in [-1, 1].
        target: (B, Q, 3) uint8, the HR pixels at ``coord``.
        hr_size: (H, W) of the HR crop, flipped as ``lr`` is.
        names: the photos that were cut.
    """

    draw: Draw
    lr: Tensor
    coord: Tensor
    target: Tensor
    hr_size: tuple[int, int]
    names: tuple[str, ...]

    def to(self, device: torch.device) -> Batch:
        """The same with its tensors on a device."""
        lr, coord, target = (t.to(device, non_blocking=True) for t in (self.lr, self.coord, self.target))
        return replace(self, lr=lr, coord=coord, target=target)

    def pin_memory(self) -> Batch:
        """The same in memory from which a GPU copies while the CPU goes on; the loader calls this."""
        return replace(self, lr=self.lr.pin_memory(), coord=self.coord.pin_memory(), target=self.target.pin_memory())


class StepBatches(Dataset[tuple[Batch, ...]]):
    """Item ``step`` is the share of this worker in that step's batch, one part for each draw."""

    def __init__(self, photos: PhotoMap, config: TrainingConfig, rank: int = 0, world_size: int = 1) -> None:
        self._photos = photos
        self._crop_px = config.data.lr_crop_px
        self._degradation = config.data.degradation
        self._num_queries = config.data.queries_per_crop
        self._seed = config.train.seed
        self._batch_size = config.train.batch_size
        self._rank, self._world_size = rank, world_size
        self.sampler = ScaleGroupSampler(config)

    def __getitem__(self, step: int) -> tuple[Batch, ...]:
        draws = self.sampler.draws(step)
        share = self._batch_size // (len(draws) * self._world_size)
        # Whose crops of the whole batch are whose depends on nothing else, so any number of workers makes the same.
        firsts = [(part * self._world_size + self._rank) * share for part in range(len(draws))]
        return tuple(
            self._batch(step, draw, range(first, first + share)) for draw, first in zip(draws, firsts, strict=True)
        )

    def _batch(self, step: int, draw: Draw, numbers: range) -> Batch:
        """The crops of the step's batch with these numbers."""
        hr_size, count = _hr_size(self._crop_px, draw.scale), len(numbers)
        # As they are made: colours together, all rows' coordinates before all columns'.
        lr = np.empty((count, self._crop_px, self._crop_px, 3), np.uint8)
        coord = np.empty((count, 2, self._num_queries), np.float32)
        target = np.empty((count, self._num_queries, 3), np.uint8)
        rng = np.random.default_rng((self._seed, _CROP_STREAM, step))
        start, names = rng.bit_generator.state, []
        for lr_cc3, coord_2Q, target_Q3, index in zip(lr, coord, target, numbers, strict=True):
            # The stream of this crop, whichever worker makes it; a generator of its own would take longer.
            rng.bit_generator.state = start
            rng.bit_generator.advance(index * _JUMP % 2**128)  # type: ignore[attr-defined]  # PCG64 has it
            number = self._photo(step * self._batch_size + index)
            hr, symmetry = self._cut(rng, self._photos[number], hr_size)
            places = _distinct_places(rng, hr_size[0] * hr_size[1], self._num_queries)
            hr.reshape(-1, 3).take(places, axis=0, out=target_Q3, mode="clip")
            # Only the small LR crop is flipped, as LIIF does; of HR pixels it is enough to know where they went.
            _flipped_coordinates(places, symmetry, hr.shape[:2], out=coord_2Q)
            # Last, because each fault draws as much as it needs.
            seen = degraded(hr, self._degradation, rng) if self._degradation.is_on else hr
            lr_cc3[:] = d4(resize_bicubic(seen, (self._crop_px, self._crop_px)), symmetry)
            names.append(self._photos.names[number])
        lr_BCHW, coord_BQ2 = torch.from_numpy(lr).permute(0, 3, 1, 2), torch.from_numpy(coord).transpose(1, 2)
        return Batch(draw, lr_BCHW, coord_BQ2, torch.from_numpy(target), hr_size, tuple(names))

    def _cut(self, rng: np.random.Generator, photo: Pixels, size: tuple[int, int]) -> tuple[Pixels, Any]:
        """A piece of the photo from anywhere, and how it is to be flipped, after which it has this size."""
        y, x, flip = rng.random(3).tolist()
        symmetry = _SYMMETRIES[int(8 * flip)]
        height, width = reversed(size) if _MOVES[symmetry][0] else size
        top, left = int(y * (photo.shape[0] - height + 1)), int(x * (photo.shape[1] - width + 1))
        return np.ascontiguousarray(cut(photo, left, top, left + width, top + height)), symmetry

    def _photo(self, position: int) -> int:
        """Every photo once per epoch, each epoch in an order of its own."""
        epoch, place = divmod(position, len(self._photos))
        return int(_epoch_order(self._seed, epoch, len(self._photos))[place])


def batches_from(dataset: StepBatches, steps: range, loader_processes: int) -> Iterator[tuple[Batch, ...]]:
    """Batches of the given steps in order, prepared ahead when there are loader processes."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=steps,
        num_workers=loader_processes,
        prefetch_factor=4 if loader_processes else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_the_group,
    )
    return iter(loader)


def _leave_the_group(_worker: int) -> None:
    """Ctrl-C and ``timeout`` signal the whole process group: the loop stops and saves, its loaders go on until then."""
    os.setpgid(0, 0)


def _hr_size(lr_crop_px: int, scale: Pair) -> tuple[int, int]:
    return round(lr_crop_px * scale[0]), round(lr_crop_px * scale[1])


def _distinct_places(rng: np.random.Generator, num_pixels: int, count: int) -> _Places:
    """Distinct flat indices, each pixel as likely as any other: one from each of ``count`` runs of pixels.

    Stratified, so that queries spread evenly over the crop, and twice as fast as ``rng.choice`` without
    replacement. Runs differ by one pixel where the division leaves a rest; they start anywhere, so no
    pixel is in a short run more often than another.
    """
    first, length = _runs(num_pixels, count)
    places = first + (rng.random(count, dtype=np.float32) * length).astype(np.int64)
    places += int(rng.integers(num_pixels))
    places[np.searchsorted(places, num_pixels) :] -= num_pixels
    return places


@lru_cache(maxsize=256)
def _runs(num_pixels: int, count: int) -> tuple[_Places, npt.NDArray[np.float32]]:
    """First index and length of ``count`` runs that make up all pixels."""
    edges = np.arange(count + 1) * num_pixels // count
    return edges[:-1], np.diff(edges).astype(np.float32)


def _flipped_coordinates(places_Q: _Places, symmetry: str, size: tuple[int, ...], out: npt.NDArray[np.float32]) -> None:
    """(2, Q) where the pixels of a crop of this size, by flat index, lie once the crop is flipped."""
    rows_Q = places_Q // size[1]
    cols_Q = places_Q - rows_Q * size[1]  # a third of what divmod takes
    swapped, *reverse = _MOVES[symmetry]
    axes = list(zip((rows_Q, cols_Q), size, strict=True))
    for axis, (index_Q, length) in enumerate(reversed(axes) if swapped else axes):
        centres = _centres(length)
        (centres[::-1] if reverse[axis] else centres).take(index_Q, out=out[axis], mode="clip")


@lru_cache(maxsize=256)
def _centres(side: int) -> npt.NDArray[np.float32]:
    return pixel_centres(side).numpy()


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, num_photos: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, _ORDER_STREAM, epoch)).permutation(num_photos)
