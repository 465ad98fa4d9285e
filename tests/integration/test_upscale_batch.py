"""jobs/upscale.py as a user runs it, on one cluster for all: killed in the middle, folders and S3."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from PIL import Image

import anysr
from anysr.imaging import format_of
from anysr.upscaling import Enlargement, Request, Upscaler, enlarge_file
from pipeline.on_ray.cluster import LocalCluster
from pipeline.storage import s3
from pipeline.storage.places import S3Uri
from tests.conftest import ROOT
from tests.enlarging import save_network, smooth
from tests.s3_server import BUCKET, running_server

from .helpers import environment, wait_for

_IMAGES, _BROKEN = 30, 3


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    server = running_server(tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield S3Uri(BUCKET)
    server.kill()


@pytest.fixture(scope="module")
def cluster(bucket):
    with LocalCluster(num_cpus=2, object_store_bytes=150 * 2**20) as running:
        yield running


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A model, and photos in nested folders with odd names, three of them broken."""
    folder = tmp_path_factory.mktemp("work")
    save_network(folder)
    names = [f"{i:02}.png" for i in range(_IMAGES - 4)] + ["deep/er/ünï 😀.jpg", "new\nline.png", "-o.png", "a..b.tif"]
    for i, name in enumerate(names):
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth(60 + i, 90, 3)).save(folder / "in" / name)
    whole = (folder / "in/00.png").read_bytes()
    for i in range(_BROKEN):
        (folder / f"in/broken{i}.png").write_bytes(whole[: 300 * i])
    return folder


def start(cluster, work: Path, source: object, out: object, *more: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "jobs/upscale.py"), str(source), "-o", str(out), "--scale", "2.37"]
    command += ["--model", "model.safetensors", "--workers", "2", *more]
    env = environment(**{**cluster.environment, "RAY_ADDRESS": cluster.address})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=work, env=env, **pipes)


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    printed, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors
    assert "Warning" not in errors
    return process.returncode, printed, errors


def stamps(folder: Path) -> dict[str, int]:
    found = (path for path in folder.rglob("*") if path.is_file() and ".anysr" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in found}


def actors() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::MapWorker"):
                found.append(process)
    return found


def test_killed_and_started_again_none_is_lost_or_repeated(cluster, work):
    out = work / "out"
    process = start(cluster, work, "in", "out")
    wait_for(lambda: len(stamps(out)) >= 5, 240, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    wait_for(lambda: not actors(), 60)
    first = stamps(out)
    assert 5 <= len(first) < _IMAGES

    process = start(cluster, work, "in", "out")
    wait_for(lambda: len(stamps(out)) >= len(first) + 4, 240, process)
    pool = actors()
    assert len(pool) == 2
    pool[0].kill()
    code, printed, errors = finished(process)
    assert code == 1
    assert f"{len(first)} of {_IMAGES + _BROKEN} are there already" in errors
    assert f"{_IMAGES - len(first)} enlarged, {len(first)} there already, {_BROKEN} failed: see " in errors
    assert " left] " in printed
    assert {name: stamp for name, stamp in stamps(out).items() if name in first} == first
    with (out / "upscale-failures.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [f"broken{i}.png" for i in range(_BROKEN)]

    upscaler, request = Upscaler(anysr.load(work / "model.safetensors")), Request(Enlargement((2.37, 2.37)))
    expected = {path.relative_to(work / "in") for path in (work / "in").rglob("*.*") if "broken" not in path.name}
    assert {Path(name) for name in stamps(out)} - {
        Path(f"upscale-failures.{end}") for end in ("csv", "parquet")
    } == expected
    for name in expected:
        data, _ = enlarge_file(upscaler, (work / "in" / name).read_bytes(), request, format_of(name))
        assert (out / name).read_bytes() == data, name


def test_s3_to_s3_and_interrupted(cluster, work, bucket):
    names = ["00.png", "deep/er/ünï 😀.jpg", "a..b.tif", "broken0.png"]
    for name in names:
        s3.write(bucket / "photos" / name, (work / "in" / name).read_bytes())
    source, out = bucket / "photos", bucket / "photos/large"
    code, _, errors = finished(start(cluster, work, source, out))
    assert code == 1
    assert "3 enlarged, 0 there already, 1 failed: see s3://sr-test/photos/large/upscale-failures.csv" in errors
    assert {one.uri.key.removeprefix("photos/large/") for one in s3.list_objects(out)} == {
        *names[:3], "upscale-failures.csv", "upscale-failures.parquet"
    }  # fmt: skip
    for name in names[:3]:
        assert s3.read(out / name) == (work / "out" / name).read_bytes()
    s3.delete(source / "broken0.png")
    code, printed, errors = finished(start(cluster, work, source, out))
    assert (code, printed) == (0, "")
    assert "0 enlarged, 3 there already, 0 failed" in errors
    # Another scale is another result; Ctrl-C ends it in order.
    process = start(cluster, work, "in", bucket / "all", "--self-ensemble")
    wait_for(lambda: len(s3.list_objects(bucket / "all")) >= 2, 240, process)
    process.send_signal(signal.SIGINT)
    code, _, errors = finished(process)
    assert code == 130
    assert errors.splitlines()[-1] == "interrupted"
    assert "start it again to go on" in errors


def test_too_many_workers_are_refused_in_one_line(cluster, work):
    code, _, errors = finished(start(cluster, work, "in", "many", "--workers", "3"))
    assert code == 2
    assert errors.splitlines()[-1].startswith("error: the cluster has 2 CPUs, too few for 3 workers")
