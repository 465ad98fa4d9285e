"""jobs/train.py --local while S3 or MLflow is away, refuses or crawls; and with checkpoints that were damaged.

ANYSR_OUTAGE_S is how long a server stays away, 20 s by default; the product's own patience is 180 s.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest
from mlflow import MlflowClient

from pipeline.storage import s3
from pipeline.storage.transfer import read_text
from tests.integration.helpers import JSONL, environment, local_command, series, train_local, wait_for, weights

OUTAGE_S = float(os.environ.get("ANYSR_OUTAGE_S", "20"))
STEPS = ("train.steps=90", "train.checkpoint_every=10", "validation.every=45")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, store):
    folder = tmp_path_factory.mktemp("undisturbed")
    done = train_local(*STEPS, *store.overrides, JSONL, f"run.storage={folder}", "run.name=r")
    assert done.returncode == 0, done.stderr
    return folder


def begin(*overrides):
    command = local_command(*STEPS, *overrides)
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment())


def rows(store, name):
    lines = (read_text(store.runs / name / "metrics.jsonl") or "").splitlines()
    return [(row["step"], row["value"]) for row in map(json.loads, lines) if row["name"] == "train/loss"]


@pytest.mark.parametrize("fault", ["gone", "refusing", "slow"])
def test_s3_misbehaves(undisturbed, store, fault):
    name = f"local-{fault}"
    process = begin(*store.overrides, JSONL, f"run.storage={store.runs}", f"run.name={name}")
    wait_for(lambda: len(rows(store, name)) >= 4, 200, process)
    if fault == "gone":
        store.server.kill()
        time.sleep(OUTAGE_S)
        assert process.poll() is None
        store.server.start()
    elif fault == "refusing":
        store.proxy.refusing = 503
        time.sleep(OUTAGE_S / 3)
        store.proxy.refusing = None
    else:
        store.proxy.bytes_per_s = 50_000
    try:
        _, errors = process.communicate(timeout=400)
    finally:
        store.proxy.bytes_per_s = None
    assert process.returncode == 0, errors
    assert s3.read(store.runs / name / "model.safetensors") == weights(undisturbed, "r")
    assert rows(store, name) == series(undisturbed, "r")


@pytest.mark.parametrize("damage", ["cut short", "flipped bit", "missing file"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(undisturbed, store, tmp_path, damage):
    where = (*store.overrides, JSONL, f"run.storage={tmp_path}", "run.name=r")
    process = begin(*where)
    checkpoints = tmp_path / "r/checkpoints"
    wait_for(lambda: len(list(checkpoints.glob("step_*"))) >= 2, 200, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest = sorted(checkpoints.glob("step_*"))[-1]
    state = newest / "state.pt"
    content = bytearray(state.read_bytes())
    if damage == "cut short":
        state.write_bytes(content[: len(content) // 2])
    elif damage == "flipped bit":
        content[len(content) // 2] ^= 4
        state.write_bytes(content)
    else:
        state.unlink()
    done = train_local(*STEPS, *where)
    assert done.returncode == 0, done.stderr
    assert f"checkpoint {newest} is damaged (state.pt" in done.stdout
    assert "resuming at step" in done.stdout
    assert weights(tmp_path, "r") == weights(undisturbed, "r")
    assert series(tmp_path, "r") == series(undisturbed, "r")


def test_mlflow_away_costs_no_metric(mlflow_server, store, tmp_path):
    """Rows of a run that went through it against rows of one without MLflow."""
    endless = (
        "train.steps=1000000",
        "train.schedule=constant",
        "train.checkpoint_every=1000",
        "validation.every=500000",
    )
    where = (*store.overrides, *endless, f"run.storage={tmp_path}")
    process = begin(*where, "run.name=r", f"tracking.uri={mlflow_server.uri}", "tracking.experiment=away")
    client = MlflowClient(mlflow_server.uri)

    def history(metric="train/loss"):
        experiment = client.get_experiment_by_name("away")
        found = client.search_runs([experiment.experiment_id]) if experiment else []
        return client.get_metric_history(found[0].info.run_id, metric) if found else []

    wait_for(lambda: len(history()) >= 20, 200, process)
    before = time.time()
    mlflow_server.stop()
    time.sleep(OUTAGE_S)
    assert process.poll() is None
    mlflow_server.start()
    after = time.time()
    wait_for(lambda: bool(rows := history()) and rows[-1].timestamp > after * 1000, 200, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 130, errors
    loss = history()
    steps = [metric.step for metric in loss]
    assert steps == list(range(3, steps[-1] + 1, 3))
    meanwhile = [metric for metric in loss if before * 1000 < metric.timestamp < (before + OUTAGE_S) * 1000]
    assert len(meanwhile) > 10  # how fast it went on meanwhile, benchmarks/mlflow_outage.py measures
    quiet = begin(*where, "run.name=quiet", JSONL)
    wait_for(lambda: len(series(tmp_path, "quiet")) >= 40, 200, quiet)
    quiet.kill()
    quiet.wait()
    assert [(metric.step, metric.value) for metric in loss[:40]] == series(tmp_path, "quiet")[:40]
