"""jobs/evaluate.py as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import anysr
from tests.conftest import ROOT
from tests.tiny import tiny_config


def evaluate(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300)


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "jobs/evaluate.py"), "--local", *map(str, arguments)]


def rows(folder: Path) -> list[dict[str, object]]:
    return pq.read_table(folder / "rows.parquet").to_pylist()


def means(folder: Path, metric: str = "psnr") -> dict[float, float]:
    mine = [row for row in rows(folder) if row["metric"] == metric]
    return {s: np.mean([r["value"] for r in mine if r["scale_h"] == s]) for s in {row["scale_h"] for row in mine}}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    folder = tmp_path / "suite"
    folder.mkdir()
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (60, 72, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    anysr.save(anysr.build(tiny_config().model), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(
    ("name", "lr", "protocol", "expected"),
    [
        ("Set5", "pil", "liif", {2: 33.67, 3: 30.40, 4: 28.43}),
        ("Set14", "pil", "liif", {2: 30.33, 3: 27.63, 4: 26.09}),
        ("BSD100", "pil", "liif", {4: 25.96}),
        ("Set5", "matlab", "liif", {2: 33.66, 3: 30.39, 4: 28.42}),
        ("Set5", "matlab", "basicsr", {2: 33.66, 3: 30.39, 4: 28.42}),
        ("BSD100", "matlab", "liif", {4: 25.96}),
    ],
)
def test_bicubic_scores_as_published(shared, tmp_path, name, lr, protocol, expected):
    images = shared / "data/bench" / name
    done = evaluate("--model", "bicubic", "--suite", f"{name}={images}", "--scales", *expected, "--lr", lr,
                    "--protocol", protocol, "--metrics", "psnr", "--out", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = means(tmp_path / "out")
    assert set(found) == set(expected)
    for scale, value in found.items():
        assert value == pytest.approx(expected[scale], abs=0.01), scale


def test_subnets_sweeps_and_asymmetric_scales(suite, model, tmp_path):
    done = evaluate("--model", model, "--suite", f"s={suite}", "--scales", "1.5:2.0:0.5", "2x3.1", "--subnets", "auto",
                    "full", "each", "--out", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = rows(tmp_path / "out")
    assert Counter(row["subnet"] for row in made) == dict.fromkeys(("auto", "full", "0", "1", "2", "3"), 6 * 3 * 2)
    assert {row["status"] for row in made} == {"ok"}
    of = {(r["image"], r["scale_h"], r["scale_w"], r["subnet"], r["metric"]): r["value"] for r in made}
    assert of["0.png", 1.5, 1.5, "auto", "psnr"] == of["0.png", 1.5, 1.5, "0", "psnr"]
    assert of["0.png", 2, 3.1, "auto", "psnr"] == of["0.png", 2, 3.1, "2", "psnr"]
    assert {(row["border_h"], row["border_w"]) for row in made if row["scale_w"] == 3.1} == {(2, 4)}
    assert "×2x3.1" in done.stdout
    assert "liif: Y, border = scale, float" in done.stdout


def test_killed_half_way_and_started_again(suite, model, tmp_path):
    arguments = ("--model", model, "--suite", f"s={suite}", "--scales", "1.1:4.0:0.1")
    whole = evaluate(*arguments, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "killed"
    process = subprocess.Popen(command(*arguments, "--out", out), stderr=subprocess.DEVNULL)
    journal, deadline = out / "rows.journal.jsonl", time.monotonic() + 120
    while not (journal.is_file() and journal.stat().st_size > 20_000) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with journal.open("a") as file:
        file.write('{"model_digest": "cut sho')
    again = evaluate(*arguments, "--out", out)
    assert again.returncode == 0, again.stderr
    assert "of 180 images and scales are there already" in again.stderr
    assert rows(out) == rows(tmp_path / "whole")
    assert not journal.exists()
    third = evaluate(*arguments, "--out", out)
    assert "180 of 180 images and scales are there already" in third.stderr
    assert third.stdout.splitlines()[:-1] == whole.stdout.splitlines()[:-1]


def test_a_broken_image_is_reported_and_scored_once_it_is_mended(suite, tmp_path):
    good = (suite / "3.png").read_bytes()
    (suite / "3.png").write_bytes(good[:500])
    arguments = (
        "--model",
        "bicubic",
        "--suite",
        suite,
        "--scales",
        "2",
        "--metrics",
        "psnr",
        "--out",
        tmp_path / "out",
    )
    done = evaluate(*arguments)
    assert done.returncode == 1, done.stderr
    failed = [row for row in rows(tmp_path / "out") if row["status"] != "ok"]
    assert [(row["image"], row["value"]) for row in failed] == [("3.png", None)]
    assert "not a readable image" in failed[0]["status"]
    assert "5 of 6" in done.stdout
    (suite / "3.png").write_bytes(good)
    again = evaluate(*arguments)
    assert again.returncode == 0 and "5 of 6" not in again.stdout


def test_a_report_that_cannot_be_written_is_noticed_before_scoring(suite, tmp_path):
    (tmp_path / "file").touch()
    cases = {tmp_path: "is a folder; name a file in it", tmp_path / "file/deep/r.html": "file is not a folder"}
    for report, message in cases.items():
        done = evaluate("--model", "bicubic", "--suite", suite, "--out", tmp_path / "out", "--report", report)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: --report {report}") and message in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_errors_are_one_line(suite, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "lr").mkdir()
    Image.new("RGB", (36, 30)).save(tmp_path / "lr/0.png")
    cases = {
        ("--suite", tmp_path / "empty"): "holds no image",
        ("--suite", suite, "--scales", "0.5"): "from 1 to",
        ("--suite", f"s={suite},{tmp_path}/lr", "--scales", "2"): "6 HR images",
        ("--suite", suite, "--metrics", "lpips", "--lpips-weights", tmp_path / "no.pth"): "put torchvision",
    }
    for arguments, message in cases.items():
        done = evaluate("--model", "bicubic", *arguments, "--out", tmp_path / "out")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert message in done.stderr


def test_models_side_by_side_one_of_them_at_its_own_factor_alone(suite, model, tmp_path):
    torch.manual_seed(1)
    double, plain = tmp_path / "double.safetensors", tmp_path / "plain.safetensors"
    anysr.save(anysr.build("ecbsr-m4c16-x2", decoder={"num_blocks": 1, "channels": 4}), double)
    anysr.save(anysr.build("edsr-baseline-liif", encoder={"num_blocks": 1, "channels": 8}), plain)
    done = evaluate("--model", "bicubic", f"mine={model}", double, "--original", plain, "--subnets", "auto", "full",
                    "--suite", f"s={suite}", "--sweep", "benchmark", "boundaries", "--metrics", "psnr",
                    "--out", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = rows(tmp_path / "out")
    assert {r["status"] for r in made} == {"ok"}
    assert {r["scale_h"] for r in made if r["model"] == "double.safetensors"} == {2}
    assert {r["scale_h"] for r in made if r["model"] == "mine"} == {1.7, 1.8, 2, 2.5, 2.6, 3, 3.2, 3.3, 4}
    kinds = {"bicubic": "interpolation", "mine": "any-resource", "double.safetensors": "fixed x2"}
    assert {r["model"]: r["kind"] for r in made} == {**kinds, "plain.safetensors": "any-scale"}
    assert {(r["model"], r["subnet"]) for r in made if r["scale_h"] == 3} == {
        ("bicubic", "full"), ("mine", "auto"), ("mine", "full"), ("plain.safetensors", "full")
    }  # fmt: skip
