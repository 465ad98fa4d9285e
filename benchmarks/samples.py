"""How many training samples a second does one core make from decoded photos?

    python -m benchmarks.samples --out results.csv

Photos of 2 megapixels (noise: the content does not matter) are decoded into the memory map beforehand.
Timed is what a loader process does for each step: draw the scale, cut, flip, shrink, choose queries.
Times are the process's own (``time.process_time``) on one thread, over steps whose scales are drawn
as in training. ``resize_s`` is the resize alone on crops of the same sizes, ``pillow_resize_s`` Pillow's,
and ``load_average`` that of the machine: where others compete for its caches, all take longer.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import PIL
import torch
from PIL import Image

from pipeline.config import TrainingConfig
from pipeline.config_file import load_config
from pipeline.data.degrade import resize_bicubic
from pipeline.data.photo_map import open_photo_map
from pipeline.data.samples import StepBatches
from pipeline.evaluation.environment import processor, short_commit


@dataclass
class Row:
    """One line of the results."""

    lr_px: int
    queries: int
    samples: int
    mean_scale: float
    seconds: float
    samples_per_second: float
    resize_s: float
    pillow_resize_s: float
    load_average: float
    cpu: str
    pillow: str
    numpy: str
    torch: str
    python: str
    commit: str


def main() -> None:
    """Measure each LR crop size and write one CSV row for each."""
    args = parse()
    torch.set_num_threads(1)
    versions = PIL.__version__, np.__version__, torch.__version__, platform.python_version()
    with args.out.open("w", newline="") as file, TemporaryDirectory() as folder:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        writer.writeheader()
        photos = noise_photos(Path(folder), args.photos)
        for lr_px in args.lr_px:
            config = configuration(Path(folder), lr_px)
            batches = StepBatches(open_photo_map(photos, config.data), config)
            mean_scale = sum(batches.sampler.draws(step)[0].scale for step in range(args.steps)) / args.steps
            seconds, *resize_s = measure(batches, config, args.steps, args.repeats)
            samples = args.steps * config.train.batch_size
            row = Row(
                lr_px, config.data.queries_per_crop, samples, mean_scale, seconds, samples / seconds, *resize_s,
                os.getloadavg()[0], processor(), *versions, short_commit(),
            )  # fmt: skip
            writer.writerow(asdict(row))
            print(
                f"LR {lr_px}²: {row.samples_per_second:,.0f} samples a second, mean scale {mean_scale:.2f}", flush=True
            )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lr-px", nargs="+", type=int, default=[48, 128])
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("samples.csv"))
    return parser.parse_args()


def noise_photos(folder: Path, count: int) -> Path:
    """A folder of 2,040 x 1,356 photos, as DIV2K's mostly are."""
    target = folder / "photos"
    target.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (1356, 2040, 3), dtype=np.uint8)).save(target / f"{i}.bmp")
    return target


def configuration(folder: Path, lr_px: int) -> TrainingConfig:
    """Published training: 2,304 queries at LR 48 x 48, 16,384 at 128 x 128; batches of 16."""
    queries = {48: 2304, 128: 16384}.get(lr_px, lr_px**2)
    values = (f"data.lr_crop_px={lr_px}", f"data.queries_per_crop={queries}", f"data.cache={folder / 'cache'}")
    return load_config(None, [*values, "train.batch_size=16"])


def measure(batches: StepBatches, config: TrainingConfig, steps: int, repeats: int) -> list[float]:
    """Seconds for so many steps, and for ours and Pillow's resize of as many crops; best of the repeats."""
    lr_px = config.data.lr_crop_px
    sides = [round(lr_px * batches.sampler.draws(step)[0].scale) for step in range(steps)]
    photo = np.random.default_rng(0).integers(0, 256, (1356, 2040, 3), dtype=np.uint8)
    crops = [photo[:side, :side] for side in sides for _ in range(config.train.batch_size)]

    def prepare() -> None:
        for step in range(steps):
            batches[step]

    def resize() -> None:
        for crop in crops:
            resize_bicubic(crop, (lr_px, lr_px))

    best = [float("inf")] * 3
    for _ in range(repeats):
        for i, (run, kernels) in enumerate([(prepare, "on"), (resize, "on"), (resize, "off")]):
            os.environ["ANYSR_KERNELS"] = kernels
            start = time.process_time()
            run()
            best[i] = min(best[i], time.process_time() - start)
    return best


if __name__ == "__main__":
    main()
