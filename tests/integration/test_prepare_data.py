"""jobs/prepare_data.py against a server of small archives: from nothing to training and scoring."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from jobs.prepare_data import main
from pipeline.data.datasets import DATASETS, chosen
from pipeline.data.prepare import Preparation, prepare
from pipeline.errors import UserError, run_command
from tests.conftest import ROOT
from tests.web_server import serve

from .helpers import JSONL, train_local, wait_for


def png(seed, height=60, width=80):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture(scope="module")
def archives():
    benchmark = {f"benchmark/{suite}/HR/{i}.png": png(i) for suite in ("Set5", "B100") for i in range(3)}
    benchmark |= {f"benchmark/Set5/LR_bicubic/X2/{i}x2.png": png(9 + i, 30, 40) for i in range(3)}
    benchmark["benchmark/padding"] = bytes(1_000_000)
    split = {f"DIV2K_{split}_HR/{i:04d}.png": png(20 + i) for split in ("train", "valid") for i in range(4)}
    return {
        "benchmark.tar": tarred(benchmark),
        **{
            f"DIV2K_{name}_HR.zip": zipped({k: v for k, v in split.items() if f"_{name}_" in k})
            for name in ("train", "valid")
        },
    }


@pytest.fixture
def mirror(archives):
    with serve(dict(archives)) as site:
        yield site


def arguments_for(site, root, *arguments):
    return ["prepare_data.py", "--root", str(root), "--mirror", site.url, *arguments]


@pytest.fixture
def job(mirror, tmp_path, monkeypatch, capfd):
    """The command, in this process: what it returns and prints."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("ANYSR_CACHE", str(tmp_path / "cache"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", arguments_for(mirror, tmp_path, *arguments))
        code = run_command(main)
        return code, *capfd.readouterr()

    return run


def test_from_nothing_to_training_and_scoring(job, mirror, tmp_path):
    mirror.cut_after = [2000, 3000]
    code, output, errors = job("--unverified", "--only", "DIV2K", "Set5")
    assert code == 0, errors
    assert "recorded, not compared" in output
    assert "ready: Set5, 3 images" in output
    assert {p.name for p in (tmp_path / "Set5/LR_bicubic/X2").iterdir()} == {"0x2.png", "1x2.png", "2x2.png"}
    source = json.loads((tmp_path / "B100/source.json").read_text())  # comes with Set5
    assert (source["archive"], source["compared"], source["files"]) == ("benchmark.tar", False, 3)
    assert list((tmp_path / "downloads").iterdir()) == []
    asked = len(mirror.requests)
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*.png")}
    code, output, errors = job("--unverified", "--only", "DIV2K", "Set5", "B100")
    assert code == 0, errors
    assert "fetching" not in output
    assert len(mirror.requests) == asked
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*.png")} == before
    _trains_and_scores(tmp_path)


def _trains_and_scores(root):
    maps = sorted((root / "cache/photos").glob("*/pixels.u8"))
    assert [path.stat().st_size for path in maps] == [4 * 60 * 80 * 3]  # the same photos twice
    photos = f"data.train={root}/DIV2K/train/HR", f"data.validation={root}/DIV2K/valid/HR"
    few = ("train.steps=2", "train.checkpoint_every=2", "validation.every=2", "validation.crop_px=null")
    done = train_local(*photos, *few, JSONL, f"run.storage={root}/runs", "run.name=r", "validation.scales=[2]")
    assert done.returncode == 0, done.stderr
    assert sorted((root / "cache/photos").glob("*/pixels.u8")) == maps  # found, not decoded again
    score = [sys.executable, str(ROOT / "jobs/evaluate.py"), "--local", "--model", "bicubic", "--scales", "2"]
    suites = ["--suite", f"Set5={root}/Set5/HR", "--suite", f"pairs={root}/Set5/HR,{root}/Set5/LR_bicubic/X{{scale}}"]
    done = subprocess.run([*score, *suites, "--out", str(root / "rows")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_killed_in_the_middle_it_goes_on(mirror, tmp_path, archives):
    mirror.bytes_per_s = len(archives["benchmark.tar"]) / 4
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    arguments = arguments_for(mirror, tmp_path, "--unverified", "--only", "Set5")
    command = [sys.executable, str(ROOT / "jobs/prepare_data.py"), *arguments[1:]]
    part = tmp_path / "downloads/benchmark.tar.part"
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        begun = part.stat().st_size if part.exists() else 0
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_for(lambda begun=begun: part.exists() and part.stat().st_size > begun, 60, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == code, errors
        assert b"Traceback" not in errors
    kept = part.stat().st_size
    mirror.bytes_per_s = float("inf")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert mirror.requests[-1][1] == f"bytes={kept}-"
    assert len(list((tmp_path / "Set5/HR").iterdir())) == 3


def how(site, root, **more):
    said: list[str] = []
    return Preparation(root, root / "cache", site.url, say=said.append, **more), said


def test_a_lost_file_is_brought_back_and_nothing_else_is_touched(mirror, tmp_path):
    ways, _ = how(mirror, tmp_path, verified=False, keep_archives=True)
    prepare(chosen(["set5", "BSD100"]), ways)
    other = (tmp_path / "B100/HR/0.png").stat().st_ino
    asked = len(mirror.requests)
    (tmp_path / "Set5/HR/1.png").unlink()
    prepare(chosen(["Set5", "B100"]), ways)
    assert (tmp_path / "Set5/HR/1.png").read_bytes() == png(1)
    assert (tmp_path / "B100/HR/0.png").stat().st_ino == other
    assert len(mirror.requests) == asked  # the archive had been kept


def test_what_is_wrong_is_one_line_and_leaves_nothing_behind(job, tmp_path, archives):
    size = len(archives["benchmark.tar"])
    cases = {
        ("--only", "Set5"): f"another file than expected: {size} bytes, not 250112000",
        ("--only", "Set55"): "did you mean Set5?",
        ("--only", "Manga109"): "an agreement of its own",
        ("--only", "Set14", "--unverified"): "holds 0 images of Set14, not 14",
        ("--only", "DIV2K_train_LR_X2", "--unverified"): "404",
        ("--only", "Set5", "--mirror", "ftp://x"): "takes http:// or https://",
        ("--manga109", str(tmp_path / "absent")): "absent",
    }
    for arguments, message in cases.items():
        code, _, errors = job(*arguments)
        assert code == 2, arguments
        assert message in errors, arguments
        assert errors.strip().count("\n") == 0, errors
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]


def test_hostile_and_broken_archives_of_an_unverified_mirror(mirror, tmp_path):
    ways, _ = how(mirror, tmp_path, verified=False)
    good = {f"benchmark/Set5/HR/{i}.png": png(i) for i in range(5)}
    bad = {
        "is not safe": tarred({**good, "../../evil.png": b"x"}),
        "not a readable archive": tarred(good)[:5000],
        "holds 0 images": tarred({"benchmark/notes.txt": b"x"}),
    }
    for message, content in bad.items():
        mirror.files["benchmark.tar"] = content
        with pytest.raises(UserError, match=message):
            prepare(chosen(["Set5"]), ways)
        assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [".lock"]
    mirror.files["benchmark.tar"] = tarred(good)
    prepare(chosen(["Set5"]), ways)
    assert len(list((tmp_path / "Set5/HR").iterdir())) == 5


def test_the_users_own_folder_is_never_replaced(mirror, tmp_path):
    ways, _ = how(mirror, tmp_path, verified=False)
    (tmp_path / "Set5").mkdir()
    (tmp_path / "Set5/mine.png").write_bytes(png(0))
    with pytest.raises(UserError, match="not made by this command"):
        prepare(chosen(["Set5"]), ways)
    prepare(chosen(["B100"]), ways)
    assert [p.name for p in (tmp_path / "Set5").iterdir()] == ["mine.png"]
    assert mirror.requests == [("benchmark.tar", None)]


def test_too_small_a_disk_is_told_before_anything_is_fetched(mirror, tmp_path, monkeypatch):
    ways, _ = how(mirror, tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=9_000_000_000))
    with pytest.raises(UserError, match=r"need 14\.8 GB in .*, where 9\.0 GB are free"):
        prepare(chosen(["DIV2K_train"]), ways)
    assert mirror.requests == []


def test_a_disk_that_fills_up_keeps_what_came(mirror, tmp_path, archives):
    small = tmp_path / "small"
    small.mkdir()
    size = len(archives["benchmark.tar"]) // 2 // 4096 * 4096
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        ways, _ = how(mirror, small, verified=False)
        with pytest.raises(UserError, match=r"cannot write .*No space left.*kept"):
            prepare(chosen(["Set5"]), ways)
        assert (small / "downloads/benchmark.tar.part").stat().st_size > 0
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_an_archive_outlives_a_disk_that_is_too_full_to_unpack_it(mirror, tmp_path, monkeypatch):
    ways, _ = how(mirror, tmp_path, verified=False)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(UserError, match="free some space"):
        patched.setattr("pipeline.data.prepare.unpack", full)
        prepare(chosen(["Set5"]), ways)
    assert (tmp_path / "downloads/benchmark.tar").is_file()
    fetched = len(mirror.requests)
    prepare(chosen(["Set5"]), ways)
    assert len(mirror.requests) == fetched


def test_manga109_is_taken_from_a_folder(job, mirror, tmp_path):
    mine = tmp_path / "mine/HR"
    mine.mkdir(parents=True)
    for i in range(2):
        (mine / f"{i}.png").write_bytes(png(i))
    code, output, errors = job("--manga109", str(mine.parent))
    assert code == 0, errors
    assert "holds 2" in output
    assert {p.name for p in (tmp_path / "Manga109/HR").iterdir()} == {"0.png", "1.png"}
    assert mirror.requests == []


def test_the_list_shows_what_there_is(job):
    code, output, _ = job("--list")
    assert code == 0
    assert all(name in output for name in (*DATASETS, "Manga109", "academic research only"))


def test_decoded_photos_that_nobody_needs_are_pruned(job, mirror, tmp_path):
    ways, _ = how(mirror, tmp_path, verified=False)
    prepare(chosen(["DIV2K_valid"]), ways)
    (entry,) = (tmp_path / "cache/photos").glob("*/")
    assert "removed 0 sets" in job("--prune-cache", "1")[1]
    old = time.time() - 40 * 86400
    os.utime(entry / "index.json", (old, old))
    assert "removed 1 sets" in job("--prune-cache")[1]
    assert not entry.exists()
    prepare(chosen(["DIV2K_valid"]), ways)  # a use: it is decoded again
    assert entry.exists()
