"""jobs/evaluate.py over Ray workers: the serial run's rows, whatever dies on the way; one cluster for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import torch
from PIL import Image

import anysr
from pipeline.on_ray.cluster import LocalCluster
from pipeline.on_ray.workers import worker_resources
from tests.conftest import ROOT
from tests.tiny import tiny_config

from .helpers import environment, wait_for


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(num_cpus=2, object_store_bytes=150 * 2**20) as running:
        yield running


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Images, one of them broken, a model, and the serial run's rows in ``serial``."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "hr").mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (90, 80 + i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"hr/{i}.png")
    (folder / "hr/broken.png").write_bytes((folder / "hr/0.png").read_bytes()[:900])
    torch.manual_seed(0)
    anysr.save(anysr.build(tiny_config().model), folder / "model.safetensors")
    done = subprocess.run(command("serial", "--local"), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    return folder


def command(out: str, *more: str) -> list[str]:
    fixed = ["--model", "bicubic", "model.safetensors", "--subnets", "auto", "full", "--suite", "s=hr"]
    sweep = ["--scales", "1.1:4.0:0.1", "2x3.1", "--out", out]
    return [sys.executable, str(ROOT / "jobs/evaluate.py"), *fixed, *sweep, *more]


def start(cluster, work: Path, out: str, *more: str) -> subprocess.Popen:
    env = environment(**{**cluster.environment, "RAY_ADDRESS": cluster.address})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(out, *more), cwd=work, env=env, **pipes)


def file(work: Path, out: str) -> bytes:
    return (work / out / "rows.parquet").read_bytes()


def begun(work: Path, out: str, size: int):
    journal = work / out / "rows.journal.jsonl"
    return lambda: journal.is_file() and journal.stat().st_size > size


def workers() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::_Worker"):
                found.append(process)
    return found


def test_one_worker_gives_the_serial_rows(cluster, work):
    process = start(cluster, work, "one", "--workers", "1")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    assert file(work, "one") == file(work, "serial")
    assert "failed: s broken.png" in output
    assert "186/186" in errors
    assert "left" in errors


def test_two_workers_one_of_them_killed_give_the_serial_rows(cluster, work):
    process = start(cluster, work, "two", "--workers", "2")
    wait_for(begun(work, "two", 20_000), 120, process)
    victims = workers()
    assert len(victims) == 2
    victims[0].kill()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    assert file(work, "two") == file(work, "serial")


def test_a_killed_driver_started_again_goes_on(cluster, work):
    process = start(cluster, work, "killed", "--workers", "2")
    wait_for(begun(work, "killed", 20_000), 120, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while workers() and time.monotonic() < deadline:
        time.sleep(0.1)  # they hold the CPUs
    again = start(cluster, work, "killed", "--workers", "2")
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 1, errors
    assert "of 186 images and scales are there already" in errors
    assert file(work, "killed") == file(work, "serial")


@pytest.mark.parametrize(("gpus", "count"), [(0, 3), (1, 1), (1, 6), (2, 3), (4, 10), (8, 2)])
def test_shares_of_gpus_fit(monkeypatch, gpus, count):
    """Ray gives a share of one GPU only, and counts in ten-thousandths."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 16.0, "GPU": float(gpus)})
    share = round(worker_resources(count)["num_gpus"] * 10_000)
    assert (share == 0) == (gpus == 0)
    assert gpus == 0 or gpus * (10_000 // share) >= count


def test_too_many_workers_are_refused_in_one_line(cluster, work):
    process = start(cluster, work, "many", "--workers", "3")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.splitlines()[-1].startswith("error: the cluster has 2 CPUs, too few for 3 workers")
    assert "Traceback" not in errors
