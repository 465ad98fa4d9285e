"""evaluate, upscale and serve as jobs of the cluster at RAY_ADDRESS=http://…, from the folder they are typed in."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import urllib.request

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.on_ray.cluster import LocalCluster, free_ports
from tests.conftest import ROOT
from tests.enlarging import save_network, smooth
from tests.integration.helpers import environment, wait_for


@pytest.fixture(scope="module")
def env():
    with LocalCluster(num_cpus=2, object_store_bytes=150 * 2**20) as cluster:
        assert cluster.environment["RAY_ADDRESS"].startswith("http://")
        yield environment(**cluster.environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("typed-here")
    (folder / "photos").mkdir()
    for number in range(3):
        Image.fromarray(smooth(40 + number, 60, 3)).save(folder / f"photos/{number}.png")
    save_network(folder).rename(folder / "mine.safetensors")
    return folder


def command(script, *arguments):
    return [sys.executable, str(ROOT / "jobs" / script), *arguments, "--model", "mine.safetensors"]


def test_evaluate(folder, env):
    arguments = ("--suite", "s=photos", "--scales", "2", "--out")
    for out, where in (("submitted", env), ("serial", environment())):
        local = () if out == "submitted" else ("--local",)
        typed = command("evaluate.py", *arguments, out, *local)
        done = subprocess.run(typed, cwd=folder, env=where, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    keys = [("image", "ascending"), ("metric", "ascending")]
    rows = [pq.read_table(folder / out / "rows.parquet").sort_by(keys) for out in ("submitted", "serial")]
    assert rows[0].num_rows == 3 * 2  # PSNR and SSIM
    assert rows[0]["value"].equals(rows[1]["value"])


def test_a_mistake_is_told_and_its_exit_code_is_the_jobs(folder, env):
    typed = command("evaluate.py", "--suite", "s=nowhere", "--scales", "2")
    done = subprocess.run(typed, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "nowhere" in done.stdout + done.stderr and "Traceback" not in done.stdout + done.stderr


def test_upscale(folder, env):
    typed = command("upscale.py", "photos", "-o", "large", "--scale", "2")
    done = subprocess.run(typed, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [Image.open(folder / f"large/{n}.png").size for n in range(3)] == [(120, 80 + 2 * n) for n in range(3)]


def test_serve_until_it_is_stopped(folder, env):
    (port,) = free_ports(1)
    log = folder / "serve.log"
    with log.open("w") as file:
        typed = command("serve.py", "--port", str(port), "--cpus", "1")
        process = subprocess.Popen(typed, cwd=folder, env=env, stdout=file, stderr=file)
        wait_for(lambda: f":{port}/" in log.read_text(), 300, process)
        url, photo = f"http://127.0.0.1:{port}/upscale?scale=3", (folder / "photos/0.png").read_bytes()
        with urllib.request.urlopen(urllib.request.Request(url, photo), timeout=120) as answer:
            assert Image.open(io.BytesIO(answer.read())).size == (180, 120)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 128 + signal.SIGTERM, log.read_text()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
