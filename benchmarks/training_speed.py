"""Does data keep up with training, what does bfloat16 bring, and where does a step's time go?

    python -m benchmarks.training_speed --config jobs/configs/anysr-tiny.yaml --profile profile.txt

Times steps on batches that are prepared as training prepares them (``--loaders`` processes, 0 in line)
against steps on the same batches kept in memory, in alternating rounds of one run, for each precision.
On a GPU encoder and decoder are replayed as CUDA graphs unless ``train.cuda_graphs=false`` is given.
``kept_ratio`` is steps a second with data over steps a second without: 1 means that data costs nothing.
``data_share`` is the same from the process's own time, which a busy machine disturbs less; with loader
processes it leaves out their work. ``--profile`` writes the operations that take most of a step.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.config import TrainingConfig
from pipeline.config_file import load_config
from pipeline.data.photo_map import open_photo_map
from pipeline.data.photos import photo_folder
from pipeline.data.samples import Batch, StepBatches, batches_from
from pipeline.evaluation.environment import processor, short_commit
from pipeline.train.graphs import graphed
from pipeline.train.state import TrainState
from pipeline.train.step import train_step

_Step = tuple[Batch, ...]


@dataclass(frozen=True)
class Row:
    """One line of the results; seconds per step are medians over rounds."""

    config: str
    device: str
    precision: str
    loaders: int
    kept_s: float
    data_s: float
    kept_ratio: float
    kept_cpu_s: float
    data_cpu_s: float
    data_share: float
    images_per_s: float
    rounds: int
    steps_per_round: int
    threads: int
    cpu: str
    torch: str
    commit: str


def main() -> None:
    """Measure each precision and number of loader processes."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    rows = []
    for precision in args.precisions:
        for loaders in args.loaders:
            overrides = [f"train.precision={precision}", f"data.loader_processes={loaders}", *args.overrides]
            config = load_config(args.config, overrides)
            rows.append(measure(config, args))
            print(rows[-1], flush=True)
            if args.profile is not None and loaders == args.loaders[0]:
                _profile(config, args.profile.with_stem(f"{args.profile.stem}_{precision}"))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def measure(config: TrainingConfig, args: argparse.Namespace) -> Row:
    """Alternate rounds with and without data."""
    count = args.steps
    dataset, state, model = _prepared(config)
    stream = batches_from(dataset, range((args.rounds + 1) * count), config.data.loader_processes)
    kept = [next(stream) for _ in range(count)]
    for batch in kept:
        train_step(state, model, batch, config.train)
    without, with_data = [], []
    for number in range(args.rounds):
        without.append(_timed(state, model, config, iter(kept), count))
        # The same steps of the schedule of groups and widths cost the same only for the same draws.
        fresh = (_as_drawn(next(stream), like) for like in kept)
        with_data.append(_timed(state, model, config, fresh, count))
        print(f"round {number + 1}: {without[-1][0]:.3f} s a step kept, {with_data[-1][0]:.3f} with data", flush=True)
    (kept_s, kept_cpu), (data_s, data_cpu) = (np.median(times, axis=0).tolist() for times in (without, with_data))
    return Row(
        args.config.stem, _device().type, config.train.precision, config.data.loader_processes, kept_s, data_s,
        kept_s / data_s, kept_cpu, data_cpu, 1 - kept_cpu / data_cpu, config.train.batch_size / data_s, args.rounds,
        count, torch.get_num_threads(), processor(), torch.__version__, short_commit(),
    )  # fmt: skip


def _as_drawn(batches: _Step, like: _Step) -> _Step:
    """A prepared batch is paid for; what is trained is the kept one, so that both rounds do the same work."""
    assert len(batches) == len(like)
    return like


def _timed(
    state: TrainState, model: nn.Module, config: TrainingConfig, steps: Iterator[_Step], count: int
) -> tuple[float, float]:
    _wait()
    start, cpu = time.perf_counter(), time.process_time()
    for batches in steps:
        train_step(state, model, batches, config.train)
    _wait()
    return (time.perf_counter() - start) / count, (time.process_time() - cpu) / count


def _profile(config: TrainingConfig, target: Path) -> None:
    from torch.profiler import ProfilerActivity, profile

    dataset, state, model = _prepared(config)
    batches = [dataset[step] for step in range(8)]
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if _device().type == "cuda" else [])
    for batch in batches:
        train_step(state, model, batch, config.train)
    with profile(activities=activities) as found:
        for batch in batches:
            train_step(state, model, batch, config.train)
    sort = "self_device_time_total" if _device().type == "cuda" else "self_cpu_time_total"
    target.parent.mkdir(parents=True, exist_ok=True)
    table = found.key_averages().table(sort_by=sort, row_limit=20, max_name_column_width=45)
    target.write_text(f"8 steps, {config.train.precision}, {processor()}, torch {torch.__version__}\n{table}\n")


def _prepared(config: TrainingConfig) -> tuple[StepBatches, TrainState, nn.Module]:
    photos = open_photo_map(photo_folder(config.data.train, "train"), config.data, config.hr_crop_px)
    state = TrainState.fresh(config, _device())
    model = graphed(state.model) if config.train.cuda_graphs else state.model
    return StepBatches(photos, config), state, model


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value")
    parser.add_argument("--config", type=Path, default=Path("jobs/configs/anysr-tiny.yaml"))
    precisions = ("float32", "bfloat16")
    parser.add_argument("--precisions", nargs="+", default=list(precisions), choices=precisions)
    parser.add_argument("--loaders", nargs="+", type=int, default=[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12, help="per round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/training_speed.csv"))
    parser.add_argument("--profile", type=Path, help="text file for the profile's summary; the precision is added")
    return parser.parse_args()


if __name__ == "__main__":
    main()
