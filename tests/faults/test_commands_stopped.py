"""SIGTERM at commands that have a Ray cluster of their own: they save, say nothing of a stack, and leave nothing."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.enlarging import save_network, smooth
from tests.integration.helpers import JSONL, environment, series, submit_command, wait_for, weights

LONG = ("train.steps=800", "validation.every=400", "ray.num_workers=1", JSONL)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(40):
        Image.fromarray(np.tile(smooth(40 + number, 60, 3), (4, 4, 1))).save(folder / f"{number:02}.png")
    return folder


def stopped(command, tmp_path, at_work):
    """What a command printed that was sent SIGTERM once it was at work; nothing of it is left."""
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(list(map(str, command)), cwd=tmp_path, env=environment(), stdout=file, stderr=file)
        wait_for(at_work, 300, process)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) > 5
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 128 + signal.SIGTERM, log.read_text()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert "Traceback" not in log.read_text() and "Fatal" not in log.read_text(), log.read_text()
    return log.read_text()


def test_a_followed_training_saves_first(tmp_path):
    command = submit_command(*LONG, f"run.storage={tmp_path}", "train.checkpoint_every=1000")
    log = stopped([*command, "run.name=stopped"], tmp_path, lambda: len(series(tmp_path, "stopped")) >= 10)
    assert "stopping the job, which saves first" in log
    reached = series(tmp_path, "stopped")[-1][0]
    assert reached < 800
    for name in ("stopped", "undisturbed"):
        done = subprocess.run([*command, f"run.name={name}"], capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("resum" in done.stdout) == (name == "stopped"), done.stdout
    assert weights(tmp_path, "stopped") == weights(tmp_path, "undisturbed")


def test_a_closed_terminal_lets_a_driver_save(tmp_path):
    """SIGHUP twice: by the terminal and by its shell."""
    command = [sys.executable, ROOT / "jobs/train.py", *submit_command(*LONG, "train.checkpoint_every=1000")[2:]]
    command += [f"run.storage={tmp_path}", "run.name=closed"]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(list(map(str, command)), env=environment(), **output)
    wait_for(lambda: len(series(tmp_path, "closed")) >= 10, 300, process)
    for _ in range(2):
        process.send_signal(signal.SIGHUP)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    assert "stopped at step" in printed


def test_evaluation(pictures, tmp_path):
    command = [sys.executable, ROOT / "jobs/evaluate.py", "--workers", "1", "--model", save_network(tmp_path)]
    command += ["--suite", f"mine={pictures}", "--scales", "1.1:4.0:0.1", "--out", tmp_path / "out"]
    journal = tmp_path / "out/rows.journal.jsonl"
    stopped(command, tmp_path, lambda: journal.exists() and journal.stat().st_size > 0)


def test_a_batch(pictures, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, ROOT / "jobs/upscale.py", pictures, "-o", out, "--workers", "1", "--scale", "4"]
    stopped([*command, "--model", save_network(tmp_path)], tmp_path, lambda: len(list(out.glob("*.png"))) >= 3)


def test_a_search(tmp_path):
    (tmp_path / "space.yaml").write_text(
        "search: {trials: 3}\n"
        "model: {encoder: {num_blocks: 1, channels: 8}, interweave: {interval: {choose: [4, 8]}}}\n"
        "train: {steps: 200, batch_size: 4}\nray: {num_workers: 1}\n"
    )
    command = [sys.executable, ROOT / "jobs/tune.py", "--config", ROOT / "jobs/configs/photos.yaml"]
    command += ["--space", tmp_path / "space.yaml", "run.name=s", f"run.storage={tmp_path}/runs"]
    stopped(command, tmp_path, lambda: any((tmp_path / "runs/s").glob("trial-*.json")))
