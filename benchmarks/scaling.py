"""What do a second worker, Ray and MLflow cost per step? The command lines of the product, interleaved.

    python -m benchmarks.scaling --rounds 3 --steps 240 --out benchmarks/results/scaling.csv

Each round runs the main job (jobs/configs/photos.yaml, one thread a worker) as the plain loop
(``--local``, a file for metrics), on one Ray worker with MLflow, and on two: with the job's batch for
each of them (a step should take as long as one worker's), and with the job's batch shared between them
(half as long). A row is a run: step times from the pace it logs itself, and the processor time that its
workers spent per step, which a busy machine disturbs little. ``--summary FILE`` prints the ratios of a file.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import psutil
import torch

from pipeline.evaluation.environment import processor, short_commit

ROOT = Path(__file__).resolve().parent.parent
_LOG_EVERY = 10
_CPUS = 2
_BATCH = 16
_WAYS = {
    "plain": ("--local", "tracking.backend=jsonl", "ray.num_workers=1"),
    "ray1_mlflow": ("ray.num_workers=1",),
    "ray2_mlflow": ("ray.num_workers=2", f"train.batch_size={2 * _BATCH}"),
    "ray2_shared_batch": ("ray.num_workers=2",),
}


@dataclass
class Row:
    """One run; milliseconds are per step, CPU milliseconds of all workers together."""

    round: int
    way: str
    steps: int
    median_ms: float
    fastest_tenth_ms: float
    cpu_ms: float
    load_before: float
    cpu: str
    cpus: int
    torch: str
    ray: str
    mlflow: str
    python: str
    commit: str


def main() -> None:
    """Run or summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/scaling.csv")
    parser.add_argument("--summary", type=Path)
    args = parser.parse_args()
    if args.summary is None:
        measure(args.rounds, args.steps, args.out)
    summarise(args.summary or args.out)


def measure(rounds: int, steps: int, out: Path) -> None:
    """Write a row per round and way, as they come."""
    import mlflow
    import ray

    versions = (processor(), os.cpu_count() or 1, torch.__version__, ray.__version__, mlflow.__version__)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        for number in range(rounds):
            for way in _WAYS:
                load = os.getloadavg()[0]
                times = run(way, steps)
                row = Row(number, way, steps, *times, load, *versions, platform.python_version(), short_commit())
                writer.writerow(asdict(row))
                file.flush()
                print(
                    f"round {number} {way}: {row.median_ms:.1f} ms, CPU {row.cpu_ms:.1f} ms, load {load:.1f}",
                    flush=True,
                )


def run(way: str, steps: int) -> tuple[float, float, float]:
    """Median and fastest tenth of the step times, and CPU time per step, in ms."""
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        script = "train.py" if "--local" in _WAYS[way] else "submit.py"
        command = [sys.executable, str(ROOT / "jobs" / script), "--config", str(ROOT / "jobs/configs/photos.yaml")]
        command += [*_WAYS[way], f"run.storage={folder}", "run.name=r", f"train.steps={steps}"]
        command += [f"train.log_every={_LOG_EVERY}", f"validation.every={steps}", "validation.scales=[2]"]
        command += [f"train.checkpoint_every={steps}"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        steps_seen = (re.match(r"step +(\d+)/", line) for line in process.stdout)
        spent = [(int(seen[1]), cpu_seconds(process.pid, way)) for seen in steps_seen if seen]
        assert process.wait() == 0
        paces = images_per_s(Path(folder), way)
    (first, before), (last, after) = spent[1], spent[-2]
    batch = 2 * _BATCH if way == "ray2_mlflow" else _BATCH
    milliseconds = sorted(1000 * batch / pace for pace in paces[2:])
    cpu_ms = 1000 * (after - before) / (last - first)
    return statistics.median(milliseconds), milliseconds[len(milliseconds) // 10], cpu_ms


def cpu_seconds(pid: int, way: str) -> float:
    """Processor time so far of the workers, all their threads included."""
    processes = [psutil.Process(pid)]
    if way != "plain":
        processes = [one for one in processes[0].children(recursive=True) if is_worker(one)]
    total = 0.0
    for one in processes:
        with suppress(psutil.Error):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def is_worker(process: psutil.Process) -> bool:
    """Whether a process is a Ray Train worker."""
    with suppress(psutil.Error):
        return "RayTrainWorker" in " ".join(process.cmdline())
    return False


def images_per_s(folder: Path, way: str) -> list[float]:
    """The pace that the run logged, in order."""
    if way == "plain":
        rows = [json.loads(line) for line in (folder / "r/metrics.jsonl").read_text().splitlines()]
        return [row["value"] for row in rows if row["name"] == "train/images_per_s"]
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("anysr").experiment_id])
    history = client.get_metric_history(found.info.run_id, "train/images_per_s")
    return [metric.value for metric in sorted(history, key=lambda metric: metric.step)]


def summarise(path: Path) -> None:
    """Ratios of the medians over the rounds."""
    with path.open() as file:
        rows = list(csv.DictReader(file))

    def best(way: str, column: str) -> float:
        return statistics.median(float(row[column]) for row in rows if row["way"] == way)

    for column in ("median_ms", "fastest_tenth_ms", "cpu_ms"):
        plain, one, two, shared = (best(way, column) for way in _WAYS)
        workers = _CPUS if column == "cpu_ms" else 1  # whose times are added up there
        print(
            f"{column}: plain {plain:.1f}, Ray and MLflow {one:.1f} ({one / plain - 1:+.1%}), two workers {two:.1f}: "
            f"efficiency {workers * one / two:.0%}; sharing a batch {shared:.1f}: {workers * one / (2 * shared):.0%}"
        )


if __name__ == "__main__":
    main()
