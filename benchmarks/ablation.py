"""What does each part of the training recipe bring, at equal compute?

    python -m benchmarks.ablation --train data/train --kodak data/Kodak24 --seeds 3

Every variant changes one thing in a small network's configuration and trains until it has spent the
same multiply-adds (forward passes of the form that runs, times three for the backward ones). Then
PSNR on the central squares of Kodak24, at one scale inside each group: through the scale's own
subnet, the full network, and the smallest one. One row per variant, seed and scale; rows that exist
are not made again, so the script can be stopped at any time. ``--report`` writes table and plot.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

import anysr
from anysr import AnySR
from anysr.metrics import psnr
from benchmarks.ablation_report import write_report
from pipeline.config import TrainingConfig
from pipeline.config_file import load_config
from pipeline.data.degrade import lr_hr_pair
from pipeline.data.draws import ScaleGroupSampler, crop_macs
from pipeline.data.photo_map import open_photo_map
from pipeline.data.photos import Pixels, decode_rgb, list_photos
from pipeline.data.samples import StepBatches
from pipeline.errors import run_command
from pipeline.evaluation.environment import processor, short_commit
from pipeline.evaluation.upscalers import to_tensor
from pipeline.train.state import TrainState
from pipeline.train.step import train_step
from pipeline.train.validation import central_crop, saved

BASE = (
    "model.encoder={kind: edsr, num_blocks: 4, channels: 32}",
    "model.decoder={kind: liif, hidden: 48, num_layers: 2, skip: bilinear}",
    "model.width_multiple=8",
    "model.subnets=[{scales: [1.0, 1.75], encoder_width: 0.5, decoder_width: 0.5}, "
    "{scales: [1.75, 2.55], encoder_width: 0.5, decoder_width: 0.67}, "
    "{scales: [2.55, 3.25], encoder_width: 0.75, decoder_width: 0.83}, {scales: [3.25, 4.0]}]",
    "data.lr_crop_px=24",
    "data.queries_per_crop=288",
    "data.on_error=skip",
    "train.batch_size=8",
    "train.learning_rate=1e-3",
    "train.warmup_steps=50",
    "train.clip_norm=0.2",
    "train.ema_decay=0.99",
    "train.precision=bfloat16",
)
PAPER = "sampling.full_width_probability=[0.6, 0, 0, 0]"
ENCODER_ONLY = (
    "model.subnets=[{scales: [1.0, 1.75], encoder_width: 0.5}, {scales: [1.75, 2.55], encoder_width: 0.7}, "
    "{scales: [2.55, 3.25], encoder_width: 0.9}, {scales: [3.25, 4.0]}]"
)
# The order of the work, too: a run that is cut short has compared the parts of the recipe first.
VARIANTS: dict[str, tuple[str, ...]] = {
    "paper": (PAPER,),
    "plain": ("model.subnets=[{scales: [1.0, 4.0]}]", "model.interweave=null"),
    # As many multiply-adds an enlargement as the others' subnets in the mean over the scales, one network for all.
    "plain at the same cost": (
        "model.subnets=[{scales: [1.0, 4.0]}]",
        "model.interweave=null",
        "model.encoder={kind: edsr, num_blocks: 4, channels: 28}",
        "model.decoder={kind: liif, hidden: 46, num_layers: 2, skip: bilinear}",
    ),
    "random widths": ("sampling.full_width_probability=0.2", "sampling.random_width_probability=0.2"),
    "sandwich": ("sampling.widths=sandwich",),
    "sandwich + distillation": ("sampling.widths=sandwich", "train.distillation=0.5"),
    "no interweaving": (PAPER, "model.interweave=null"),
    "interval 8": (PAPER, "model.interweave.interval=8"),
    "interval 32": (PAPER, "model.interweave.interval=32"),
    "encoder only": (PAPER, ENCODER_ONLY, "model.width_multiple=4"),
    "own width only": (),
    "all groups each step": ("sampling.groups_per_step=all",),
    "all groups, some asymmetric": ("sampling.groups_per_step=all", "sampling.asymmetric_probability=0.1"),
    "pair": ("sampling.widths=pair",),
    "weights by cost": (PAPER, "sampling.group_weights=cost"),
}
SCALES = (1.5, 2.2, 3.0, 4.0)
CROP_PX = 128


@dataclass(frozen=True)
class Row:
    """One line of the results; PSNR in dB on Y, border = scale, LR by Pillow's bicubic."""

    variant: str
    seed: int
    scale: float
    own: float
    full: float
    smallest: float
    own_gmacs: float
    full_gmacs: float
    saved: float
    steps: int
    budget_tmacs: float
    params: int
    cpu_s: float
    cpu: str
    torch: str
    commit: str


def main() -> int:
    """Make the rows that are missing, seed by seed, then the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, help="folder of photos to train on")
    parser.add_argument("--kodak", type=Path, help="folder of photos to score")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8000, help="of the paper's recipe; sets the multiply-adds")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablation.csv"))
    parser.add_argument("--report", action="store_true", help="write table and plot from the rows there are")
    args = parser.parse_args()
    if args.report:
        write_report(args.out)
        return 0
    if args.train is None or args.kodak is None:
        parser.error("--train and --kodak are needed to make rows")
    torch.set_num_threads(1)
    budget = spent_macs(configure(PAPER, seed=0), args.steps)
    photos = [central_crop(decode_rgb(path, 100), CROP_PX) for path in list_photos(args.kodak)]
    for seed in range(args.seeds):
        for variant in args.variants:
            if (variant, str(seed)) in _done(args.out):
                continue
            config = configure(*VARIANTS[variant], f"data.train={args.train.resolve()}", seed=seed)
            rows = run_variant(variant, config, budget, photos)
            _append(args.out, rows)
            print(f"seed {seed} {variant}: " + "  ".join(f"x{r.scale:g} {r.own:.2f}" for r in rows), flush=True)
    write_report(args.out)
    return 0


def configure(*overrides: str, seed: int, steps: int = 1000) -> TrainingConfig:
    """The base configuration with a variant's changes."""
    return load_config(None, [*BASE, *overrides, f"train.seed={seed}", f"train.steps={steps}"])


def spent_macs(config: TrainingConfig, steps: int) -> int:
    """Multiply-adds of the first so many steps, forward and backward."""
    return sum(_step_macs(config, range(steps)))


def steps_within(config: TrainingConfig, budget: int) -> int:
    """Steps that spend ``budget`` multiply-adds."""
    spent = np.cumsum(_step_macs(config, range(2 * budget // (3 * config.train.batch_size * min(crop_macs(config))))))
    return int(np.searchsorted(spent, budget)) + 1


def run_variant(variant: str, config: TrainingConfig, budget: int, photos: Sequence[Pixels]) -> list[Row]:
    """Train a variant from scratch and score it."""
    steps = steps_within(config, budget)
    config = config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})
    assert config.data.train is not None
    batches = StepBatches(open_photo_map(config.data.train, config.data, config.hr_crop_px), config)
    state, start = TrainState.fresh(config, torch.device("cpu")), time.process_time()
    for step in range(steps):
        train_step(state, state.model, batches[step], config.train)
    cpu_s = time.process_time() - start
    model = state.best_model.eval()
    about = (steps, budget / 1e12, sum(p.numel() for p in model.parameters()), cpu_s, processor(), torch.__version__)
    return [
        Row(variant, config.train.seed, scale, *_score(model, scale, photos), *about, short_commit())
        for scale in SCALES
    ]


@torch.inference_mode()
def _score(model: AnySR, scale: float, photos: Sequence[Pixels]) -> tuple[float, ...]:
    values: list[list[float]] = []
    for photo in photos:
        lr, hr = lr_hr_pair(photo, scale)
        lr_13hw, hr_3HW, size = to_tensor(lr)[None], to_tensor(hr), (hr.shape[0], hr.shape[1])
        answers = [model(lr_13hw, scale, size, subnet=subnet)[0] for subnet in ("auto", "full", 0)]
        values.append([psnr(answer, hr_3HW, int(np.ceil(scale))) for answer in answers])
    own, full = (anysr.cost(model, (256, 256), scale, subnet).macs / 1e9 for subnet in ("auto", "full"))
    return (*(float(mean) for mean in np.mean(values, axis=0)), own, full, saved(model, scale))


def _step_macs(config: TrainingConfig, steps: range) -> list[int]:
    sampler, each = ScaleGroupSampler(config), crop_macs(config)
    drawn = (sampler.draws(step) for step in steps)
    return [
        3 * config.train.batch_size // len(draws) * sum(each[i] for draw in draws for i in draw.subnets)
        for draws in drawn
    ]


def _done(path: Path) -> set[tuple[str, str]]:
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {(row["variant"], row["seed"]) for row in csv.DictReader(file)}


def _append(path: Path, rows: Sequence[Row]) -> None:
    is_new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        if is_new:
            writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


if __name__ == "__main__":
    sys.exit(run_command(main))
