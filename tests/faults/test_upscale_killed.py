"""``anysr upscale`` on a folder, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from PIL import Image

from anysr.imaging import read_image
from tests.enlarging import save_network, smooth


def test_killed_and_started_again(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(60):
        Image.fromarray(smooth(40 + number, 60, 3)).save(folder / f"{number:02}.png")
    command = [sys.executable, "-m", "anysr.cli", "upscale", folder, "--scale", "3", "-o", out,
               "--model", save_network(tmp_path)]  # fmt: skip
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(list(out.glob("*.png"))) < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    first = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert 5 <= len(first) < 60
    again = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert f"{len(first)} of 60 are there already" in again.stderr
    assert again.stdout.count("->") == 60 - len(first)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    for number in range(60):
        assert read_image(out / f"{number:02}.png").size == (3 * (40 + number), 180)
