"""Two machines that want the same run on S3: one gets it, and a dead one holds nobody up for long."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from pipeline.errors import UserError
from pipeline.run import run_training
from pipeline.storage import owner, s3
from pipeline.storage.owner import OWNER_FILE, owned
from pipeline.storage.places import S3Uri
from tests.conftest import ROOT
from tests.s3_server import BUCKET
from tests.tiny import tiny_config

from .helpers import wait_for

HOLDING = f"""
import time
from pathlib import Path
from pipeline.storage import owner
from pipeline.storage.places import S3Uri
owner._SIGN_EVERY_S = 0.2
with owner.owned(S3Uri({BUCKET!r}, "KEY"), Path("FOLDER"), "the run 'r'"):
    print("owned", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def place(server, proxy, monkeypatch, request):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setattr(owner, "_SIGN_EVERY_S", 0.2)
    monkeypatch.setattr(owner, "_LOOK_EVERY_S", 0.1)
    return S3Uri(BUCKET, request.node.name)


@pytest.fixture
def machines(tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    return folders


def holding(place, folder):
    """Another process that owns the place."""
    code = HOLDING.replace("KEY", place.key).replace("FOLDER", str(folder))
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "owned\n"
    return process


def signed(place):
    return json.loads(s3.read(place / OWNER_FILE))


def test_another_machine_is_kept_out_until_the_end(place, machines):
    with owned(place, machines[0], "the run 'r'"):
        with (
            pytest.raises(UserError, match=r"the run 'r' is being worked on by process \d+ on .*; wait for it, or"),
            owned(place, machines[1], "the run 'r'"),
        ):
            pytest.fail("two at once")
        assert signed(place)["token"] == (machines[0] / ".owner").read_text()
    assert s3.read(place / OWNER_FILE) is None
    with owned(place, machines[1], "the run 'r'"):
        assert signed(place)["token"] == (machines[1] / ".owner").read_text()


def test_a_killed_owner_is_followed_at_once_in_its_folder_and_after_its_silence_elsewhere(
    place, machines, monkeypatch, capsys
):
    monkeypatch.setenv("ANYSR_S3_RETRY_S", "3")
    process = holding(place, machines[0])
    process.kill()
    process.wait()
    assert signed(place)["pid"] == process.pid
    with owned(place, machines[0], "the run 'r'"):
        assert "waiting" not in capsys.readouterr().out
    monkeypatch.setattr(owner, "_GRACE_S", 0.0)
    dead = {"token": "x", "host": "elsewhere", "pid": 7, "silent_s": 3.0}
    s3.write(place / OWNER_FILE, json.dumps(dead).encode())
    with owned(place, machines[1], "the run 'r'"):
        said = capsys.readouterr().out
        assert "the run 'r' was being worked on by process 7 on elsewhere" in said
        assert "until it has been silent for 3 s" in said


def test_an_owner_that_was_replaced_ends_and_leaves_the_new_one_alone(place, machines):
    process = holding(place, machines[0])
    new = json.dumps({"token": "x", "host": "elsewhere", "pid": 7, "silent_s": 300.0}).encode()
    s3.write(place / OWNER_FILE, new)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors == (
        "error: the run 'r' is given up here, and nothing more is saved: process 7 on elsewhere has taken it over\n"
    )
    assert s3.read(place / OWNER_FILE) == new


def test_an_owner_outlasts_s3(place, machines, proxy, monkeypatch):
    monkeypatch.setenv("ANYSR_S3_RETRY_S", "0.1")
    given_up = []
    monkeypatch.setattr(owner, "_end", lambda what, found: given_up.append(what))
    with owned(place, machines[0], "the run 'r'"):
        proxy.refusing = 503
        before = proxy.counts["GET"]
        wait_for(lambda: proxy.counts["GET"] > before + 2, 60)
        proxy.refusing = None
        back = time.time()
        wait_for(lambda: signed(place)["signed"] > back, 60)
    assert given_up == []


def test_a_server_without_conditions_will_do(place, machines, proxy):
    proxy.knows_conditions = False
    with owned(place, machines[0], "the run 'r'"):
        before = signed(place)["signed"]
        wait_for(lambda: signed(place)["signed"] > before, 60)


def test_a_run_is_not_started_twice(place, machines, monkeypatch):
    """As on two machines: each with a cache of its own."""
    config = tiny_config("tracking.backend=jsonl", f"run.storage={place}", "run.name=r")
    monkeypatch.setenv("ANYSR_CACHE", str(machines[0]))

    def twice(_config, _sink):
        monkeypatch.setenv("ANYSR_CACHE", str(machines[1]))
        run_training(config, lambda _config, _sink: pytest.fail("it was started"))

    with pytest.raises(UserError, match="the run 'r' is being worked on by process"):
        run_training(config, twice)
