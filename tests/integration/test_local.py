"""jobs/train.py --local in processes of its own: resuming, stopping, and bad input."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError

from .helpers import JSONL, environment, local_command, series, train_local, wait_for, weights

LONG = ("train.steps=120", "validation.every=60")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    storage = tmp_path_factory.mktemp("runs")
    done = train_local(*LONG, JSONL, f"run.storage={storage}", "run.name=plain")
    assert done.returncode == 0, done.stderr
    return storage


def test_the_same_seed_gives_the_same_run(undisturbed):
    done = train_local(*LONG, JSONL, f"run.storage={undisturbed}", "run.name=again")
    assert done.returncode == 0, done.stderr
    assert series(undisturbed, "again") == series(undisturbed, "plain")
    assert weights(undisturbed, "again") == weights(undisturbed, "plain")
    for row in ("bicubic", "own subnet", "full network", "multiply-adds saved", "×1.5", "ETA"):
        assert row in done.stdout


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_run_submitted_again_ends_with_the_same_weights(undisturbed, number):
    name = f"stopped-{number.name}"
    command = local_command(*LONG, JSONL, f"run.storage={undisturbed}", f"run.name={name}")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    wait_for(lambda: len(series(undisturbed, name)) >= 5, 120, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), errors
    assert not (undisturbed / name / "model.safetensors").exists()
    done = train_local(*LONG, JSONL, f"run.storage={undisturbed}", f"run.name={name}")
    assert done.returncode == 0, done.stderr
    assert "resuming at step" in done.stdout
    assert weights(undisturbed, name) == weights(undisturbed, "plain")
    assert series(undisturbed, name) == series(undisturbed, "plain")
    for metric in ("eval/photos_x2/psnr_y", "eval/photos_x4/psnr_y_full"):
        assert series(undisturbed, name, metric) == series(undisturbed, "plain", metric)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_stops_the_loop_and_not_its_loaders(tmp_path, number):
    """As Ctrl-C in a terminal and `timeout` send it."""
    command = local_command(*LONG, JSONL, f"run.storage={tmp_path}", "run.name=group", "data.loader_processes=2")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, env=environment(), start_new_session=True)
    wait_for(lambda: len(series(tmp_path, "group")) >= 2, 120, process)
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert "stopped at step" in output


def test_a_run_outlasts_its_readers_and_under_nohup_its_terminal(undisturbed):
    """As `train.py --local | head` leaves it."""
    command = local_command(*LONG, JSONL, f"run.storage={undisturbed}", "run.name=unread")
    process = subprocess.Popen(["nohup", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment())
    process.stdout.readline()
    process.stdout.close()
    wait_for(lambda: len(series(undisturbed, "unread")) >= 2, 120)
    process.send_signal(signal.SIGHUP)
    assert process.wait(180) == 0
    assert weights(undisturbed, "unread") == weights(undisturbed, "plain")


def test_a_terminal_that_is_closed_costs_no_step(tmp_path):
    command = local_command(*LONG, JSONL, f"run.storage={tmp_path}", "run.name=closed")
    ours, terminal = pty.openpty()
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment())
    os.close(terminal)
    wait_for(lambda: len(series(tmp_path, "closed")) >= 2, 120)
    os.close(ours)
    for _ in range(2):  # from the terminal and from its shell
        process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 130
    (checkpoint,) = sorted((tmp_path / "closed/checkpoints").iterdir())[-1:]
    assert int(checkpoint.name.removeprefix("step_")) >= series(tmp_path, "closed")[-1][0]


def test_the_loop_needs_neither_cluster_nor_image_formats(tmp_path):
    """As on a machine that holds only what docs/models/training.md lists."""
    absent = "imagecodecs", "tifffile", "ray", "mlflow", "boto3"
    script = f"import runpy, sys; sys.modules.update(dict.fromkeys({absent})); del sys.argv[0]\n"
    script += "runpy.run_path(sys.argv[0], None, '__main__')"
    python, *rest = local_command(JSONL, "train.steps=2", "validation.every=2", f"run.storage={tmp_path}")
    done = subprocess.run([python, "-c", script, *rest], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


def test_a_finished_run_is_left_alone_and_a_changed_one_refused(undisturbed):
    before = weights(undisturbed, "plain")
    done = train_local(*LONG, JSONL, f"run.storage={undisturbed}", "run.name=plain")
    assert done.returncode == 0
    assert "is finished" in done.stdout
    done = train_local(*LONG, JSONL, f"run.storage={undisturbed}", "run.name=plain", "train.learning_rate=0.1")
    assert done.returncode == 2
    assert "train.learning_rate: 0.001 -> 0.1" in one_line(done)
    assert weights(undisturbed, "plain") == before


def test_a_run_stopped_at_its_last_step_still_has_its_scores(tmp_path, monkeypatch):
    from pipeline.tracking.tracker import FileTracker
    from pipeline.train.local import LocalContext, fit_locally
    from tests.tiny import tiny_config

    few = ("train.steps=4", "validation.every=2", "run.name=r", f"run.storage={tmp_path}", JSONL)
    monkeypatch.setattr(LocalContext, "should_stop", lambda self: True)
    for step in range(1, 5):
        fitted = fit_locally(tiny_config(*few), FileTracker(tmp_path / "r").sink)
        assert fitted.outcome.step == step
    assert fitted.outcome.finished
    assert len(fitted.outcome.scores) == 3
    assert [step for step, _ in series(tmp_path, "r", "eval/photos_x2/psnr_y")] == [2, 4]


def test_a_run_that_fails_has_its_last_metrics(tmp_path, monkeypatch):
    from pipeline.tracking.tracker import FileTracker
    from pipeline.train import local
    from tests.tiny import tiny_config

    def train(config, context, log, run_id):
        log.add(3, {"loss": 1.0})
        raise UserError("enough")

    monkeypatch.setattr(local, "train", train)
    with pytest.raises(UserError, match="enough"):
        local.fit_locally(tiny_config("run.name=r", f"run.storage={tmp_path}", JSONL), FileTracker(tmp_path / "r").sink)
    assert series(tmp_path, "r", "loss") == [(3, 1.0)]


def test_two_processes_do_not_work_on_one_run(tmp_path):
    overrides = ("train.steps=100000", JSONL, f"run.storage={tmp_path}", "run.name=r")
    first = subprocess.Popen(local_command(*overrides), stdout=subprocess.DEVNULL, env=environment())
    try:
        wait_for(lambda: len(series(tmp_path, "r")) >= 1, 120, first)
        done = train_local(*overrides)
        assert done.returncode == 2
        assert "another process" in one_line(done)
    finally:
        first.kill()
        first.wait()


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def test_bad_input_is_one_line_and_a_non_zero_exit(tmp_path, photos):
    truncated = (photos / "0.png").read_bytes()[:3000]
    (photos / "cut.png").write_bytes(truncated)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    storage = f"run.storage={tmp_path / 'runs'}"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead_server = f"tracking.uri=http://127.0.0.1:{closed.getsockname()[1]}"
        cases = {
            (storage, JSONL, f"data.train={tmp_path / 'absent'}"): "no folder of photos",
            (storage, JSONL, f"data.train={tmp_path / 'texts'}"): "holds no image",
            (storage, JSONL, f"data.train={photos}"): "cut.png",
            (storage, JSONL, "data.lr_crop_px=400"): "smaller than the 1600 px",
            (storage, JSONL, "train.lerning_rate=1"): "did you mean 'train.learning_rate'",
            (storage, "tracking.uri=http://127.0.0.1:9"): "does not answer",
            (storage, dead_server): "does not answer",
            (f"run.storage={tmp_path / 'file'}/runs", JSONL): "cannot write to run.storage",
        }
        for overrides, message in cases.items():
            done = train_local(*overrides)
            assert done.returncode == 2, (overrides, done.stdout, done.stderr)
            assert message in one_line(done), overrides


def test_skipping_lists_what_was_skipped(tmp_path, photos):
    (photos / "notes.png").write_text("not an image")
    where = (f"data.train={photos}", f"data.validation={photos}", f"run.storage={tmp_path / 'runs'}", JSONL)
    done = train_local(*where, "data.on_error=skip", "run.name=r")
    assert done.returncode == 0, done.stderr
    assert "photos: 2 to train, 2 to validate" in done.stdout
    assert "skipped: " in done.stdout
    assert "notes.png is not a readable image" in done.stdout


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        filler = small / "filler"
        filler.write_bytes(bytes(9 * 2**20))
        done = train_local(f"run.storage={small}", JSONL, "run.name=r")
        assert done.returncode == 2
        assert "MB free, but the checkpoints need" in one_line(done)
        filler.unlink()
        _fills_up_later(small)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def _fills_up_later(storage: Path) -> None:
    overrides = (*LONG, JSONL, f"run.storage={storage}", "run.name=r")
    command = local_command(*overrides)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    checkpoints = storage / "r" / "checkpoints"
    wait_for(lambda: any(checkpoints.glob("step_*")), 120, process)
    filler = (storage / "filler").open("wb", buffering=0)
    with filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert "cannot save the checkpoint" in errors
    assert any(checkpoints.glob("step_*"))
    (storage / "filler").unlink()
    done = train_local(*overrides)
    assert done.returncode == 0, done.stderr
    assert "resuming at step" in done.stdout
