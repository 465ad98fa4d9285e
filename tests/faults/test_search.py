"""jobs/tune.py as a user runs it: killed half-way and started again; and with everything remote."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from pipeline.storage.transfer import read_text
from tests.conftest import ROOT
from tests.integration.helpers import environment, wait_for

BASE = ROOT / "jobs/configs/photos.yaml"
SPACE = """
search: {trials: 4, reports: 2}
model:
  encoder: {num_blocks: 1, channels: 8}
  decoder: {hidden: 16, num_layers: 2}
  width_multiple: 1
  interweave: {interval: {choose: [4, 8, null]}}
  subnets: {groups: {choose: [2, 3]}, encoder_width: {between: [0.3, 0.5]}}
data: {lr_crop_px: 12, queries_per_crop: 64}
train: {steps: 60, batch_size: 4, log_every: 10, ema_decay: null, learning_rate: {between: [1e-4, 1e-2], log: true}}
validation: {scales: [2, 4], crop_px: 48}
ray: {num_workers: 1}
"""
OUTPUTS = ("trials.csv", "front.csv", "front.json", "front.png", "importance.csv", "ablation.md", "best.yaml")


@pytest.fixture
def command(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    files = ["--config", str(BASE), "--space", str(tmp_path / "space.yaml")]
    return [sys.executable, str(ROOT / "jobs/tune.py"), *files, "run.name=s", f"run.storage={tmp_path}/runs"]


def ledger(folder):
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("trial-*.json"))}


def ended(folder):
    return {name: trial for name, trial in ledger(folder).items() if trial["status"] != "running"}


def test_killed_half_way_it_repeats_no_finished_trial(command, tmp_path):
    env, folder = environment(RAY_worker_niceness="0"), tmp_path / "runs/s"
    with (tmp_path / "first.log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)
        wait_for(lambda: len(ended(folder)) >= 1, 400, process)
        process.kill()
        process.wait()
    before = ended(folder)
    assert len(before) < 4
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    after = ended(folder)
    assert len(after) == 4
    assert {name: after[name] for name in before} == before
    for trial in before.values():
        assert f"trial {trial['number']}: " not in done.stdout
    assert "were cut short" in done.stdout
    assert "ETA" in done.stdout
    assert all((folder / name).stat().st_size > 0 for name in OUTPUTS)
    _is_one_tree_of_runs(f"sqlite:///{tmp_path}/mlflow.db")
    trained = train_best(folder / "best.yaml", tmp_path)
    assert trained.returncode == 0, trained.stderr
    again = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    assert "starts" not in again.stdout


def train_best(config, folder):
    command = [sys.executable, str(ROOT / "jobs/train.py"), "--local", "--config", str(config), "train.steps=4"]
    command += ["tracking.backend=jsonl", f"run.storage={folder}/best", "run.name=best"]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def _is_one_tree_of_runs(uri):
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("anysr").experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (parent,) = [run for run in runs if run not in children]
    assert parent.info.status == "FINISHED"
    assert "front.png" in {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert sorted(run.info.run_name for run in children) == [f"s-{i:03d}" for i in range(4)]
    assert {run.info.status for run in children} <= {"FINISHED", "KILLED"}
    assert all("eval/photos_x2/psnr_y" in run.data.metrics for run in children)


def test_a_search_with_everything_remote(cluster, store, mlflow_server, command):
    """Submitted to a cluster of two nodes; data, checkpoints and results on S3, MLflow on PostgreSQL."""
    overrides = [*store.overrides, "run.name=remote", f"run.storage={store.runs}"]
    overrides += ["search.trials=2", "search.halving=null"]  # or the second may be stopped early
    env = environment(**cluster.environment, MLFLOW_TRACKING_URI=mlflow_server.uri)
    done = subprocess.run([*command, *overrides], env=env, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader((read_text(store.runs / "remote" / "trials.csv") or "").splitlines()))
    assert [row["status"] for row in rows] == ["finished", "finished"]
    best = read_text(store.runs / "remote" / "best.yaml")
    assert best is not None
    assert "subnets" in best
