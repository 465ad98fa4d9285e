"""Running the command lines as a user does, and comparing what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT
from tests.tiny import OVERRIDES

JSONL = "tracking.backend=jsonl"


def train_local(*overrides: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(local_command(*overrides), capture_output=True, text=True, timeout=180, **options)


def local_command(*overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "jobs/train.py"), "--local", *OVERRIDES, *overrides]


def submit_command(*overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "jobs/submit.py"), *OVERRIDES, *overrides]


def wait_for(condition: Callable[[], bool], timeout_s: float, process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process is None or process.poll() is None, f"ended early: {process.communicate()}"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def weights(storage: Path, name: str) -> bytes:
    return (storage / name / "model.safetensors").read_bytes()


def series(storage: Path, name: str, metric: str = "train/loss") -> list[tuple[int, float]]:
    path = storage / name / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(row["step"], row["value"]) for row in rows if row["name"] == metric]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", **extra}
