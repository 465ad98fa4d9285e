"""Does training stall while the MLflow server is away? One run, the server stopped and started by turns.

    python -m benchmarks.mlflow_outage --turns 4 --seconds 60 --out benchmarks/results/mlflow_outage.csv

A row is a turn of the main job (jobs/configs/photos.yaml, ``--local``, one thread): with the server or
without it, the step times that the run logged meanwhile, and the processor time it spent per step.
MLflow runs on SQLite here; who waits for it is the same thread.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import psutil
import torch
from mlflow import MlflowClient

from pipeline.evaluation.environment import processor, short_commit
from pipeline.on_ray.cluster import free_ports

ROOT = Path(__file__).resolve().parent.parent
_BATCH, _LOG_EVERY = 16, 5


@dataclass
class Turn:
    """Seconds since the epoch, and what the process had spent by then."""

    server: str
    begin: float
    end: float
    cpu_s: float


@dataclass
class Row:
    """One turn; milliseconds are per step."""

    turn: int
    server: str
    steps: int
    median_ms: float
    cpu_ms: float
    metrics_missing: int
    load: float
    cpu: str
    torch: str
    commit: str


class Server:
    """An MLflow server that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_ports(1)[0]
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start, and wait for the first answer."""
        command = [str(Path(sys.executable).with_name("mlflow")), "server", f"--port={self._port}", "--workers=1"]
        command += [f"--backend-store-uri=sqlite:///{self._folder}/server.db"]
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)

    def stop(self) -> None:
        """Away: the port is closed."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def main() -> None:
    """Measure and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=4, help="with the server and without it, each so often")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/mlflow_outage.csv")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="outage-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder))
        server.start()
        turns = run(server, Path(folder), args.turns, args.seconds)
        rows = evaluate(server, turns)
        server.stop()
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    for column in ("median_ms", "cpu_ms"):
        there, away = (
            statistics.median(getattr(row, column) for row in rows if row.server == state)
            for state in ("there", "away")
        )
        print(f"{column}: with the server {there:.1f}, without it {away:.1f} ({away / there - 1:+.1%})")
    print(f"metrics missing afterwards: {sum(row.metrics_missing for row in rows)}")


def run(server: Server, folder: Path, count: int, seconds: float) -> list[Turn]:
    """Train through all turns; the server is there at the end."""
    command = [
        sys.executable,
        str(ROOT / "jobs/train.py"),
        "--local",
        "--config",
        str(ROOT / "jobs/configs/photos.yaml"),
    ]
    command += ["ray.num_workers=1", f"tracking.uri={server.uri}", f"run.storage={folder}", "run.name=r"]
    command += [f"train.log_every={_LOG_EVERY}", "train.steps=1000000", "validation.every=1000000"]
    command += ["train.checkpoint_every=1000000", "train.schedule=constant"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "step " not in process.stdout.readline():
        pass
    with (folder / "rest").open("w") as rest, subprocess.Popen(["cat"], stdin=process.stdout, stdout=rest):
        turns = []
        for number in range(2 * count):
            away = number % 2 == 1
            if away:
                server.stop()
            turns.append(_turn(process, "away" if away else "there", seconds))
            if away:
                server.start()
        time.sleep(10)
        process.send_signal(signal.SIGTERM)
        process.wait()
    return turns


def _turn(process: subprocess.Popen[str], state: str, seconds: float) -> Turn:
    time.sleep(3)  # until the change is felt
    begin, before = time.time(), psutil.Process(process.pid).cpu_times()
    time.sleep(seconds)
    after = psutil.Process(process.pid).cpu_times()
    return Turn(state, begin, time.time(), after.user + after.system - before.user - before.system)


def evaluate(server: Server, turns: list[Turn]) -> list[Row]:
    """What the run logged in each turn."""
    client = MlflowClient(server.uri)
    (found,) = client.search_runs([client.get_experiment_by_name("anysr").experiment_id])
    paces = client.get_metric_history(found.info.run_id, "train/images_per_s")
    rows = []
    for number, turn in enumerate(turns):
        mine = sorted((m for m in paces if turn.begin < m.timestamp / 1000 < turn.end), key=lambda metric: metric.step)
        steps = (mine[-1].step - mine[0].step) + _LOG_EVERY
        missing = steps // _LOG_EVERY - len({metric.step for metric in mine})
        median_ms = 1000 * _BATCH / statistics.median(metric.value for metric in mine)
        hardware = (os.getloadavg()[0], processor(), torch.__version__, short_commit())
        rows.append(Row(number, turn.server, steps, median_ms, 1000 * turn.cpu_s / steps, missing, *hardware))
    return rows


if __name__ == "__main__":
    main()
