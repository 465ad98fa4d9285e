"""Real `ray job submit`, real kills: Ray Train against the plain loop, on one shared local cluster."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from mlflow import MlflowClient
from safetensors.numpy import load_file

from pipeline.on_ray.cluster import LocalCluster
from tests.conftest import ROOT

from .helpers import JSONL, environment, series, submit_command, train_local, wait_for, weights

# A small learning rate: Adam blows roundings up, in 120 steps to 1 % of a loss at 1e-3.
LONG = ("train.steps=120", "train.checkpoint_every=20", "validation.every=60", "train.learning_rate=1e-4")


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(num_cpus=2, object_store_bytes=150 * 2**20) as running:
        yield running


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    storage = tmp_path_factory.mktemp("runs")
    done = train_local(*LONG, JSONL, f"run.storage={storage}", "run.name=plain")
    assert done.returncode == 0, done.stderr
    return storage


def start(cluster, *overrides, **extra):
    env = environment(**cluster.environment, **extra)
    return subprocess.Popen(
        submit_command(*overrides), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )


def submit(cluster, *overrides, **extra):
    process = start(cluster, *overrides, **extra)
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def mine(*words):
    """Processes below this one whose command line holds all the words."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if all(word in line for word in words):
            found.append(process)
    return found


def test_one_worker_is_the_plain_loop(cluster, runs):
    code, output = submit(cluster, *LONG, JSONL, f"run.storage={runs}", "run.name=one")
    assert code == 0, output
    assert series(runs, "one") == series(runs, "plain")
    assert weights(runs, "one") == weights(runs, "plain")
    assert "step 120/120" in output
    assert "multiply-adds saved" in output


def test_two_workers_agree_to_rounding_and_survive_a_kill(cluster, runs):
    """Worker killed at about half the run: same weights as two workers undisturbed, near one worker's."""
    two = (*LONG, JSONL, f"run.storage={runs}", "ray.num_workers=2")
    code, output = submit(cluster, *two, "run.name=two")
    assert code == 0, output
    process = start(cluster, *two, "run.name=two-killed")
    wait_for(lambda: len(series(runs, "two-killed")) >= 20, 120, process)
    workers = mine("ray::", "RayTrainWorker")
    assert workers
    workers[-1].kill()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "resuming at step" in output
    assert weights(runs, "two-killed") == weights(runs, "two")
    assert series(runs, "two-killed") == series(runs, "two")
    steps, losses = zip(*series(runs, "two"), strict=True)
    plain_steps, plain_losses = zip(*series(runs, "plain"), strict=True)
    assert steps == plain_steps
    np.testing.assert_allclose(losses, plain_losses, rtol=1e-3)
    a, b = (load_file(runs / name / "model.safetensors") for name in ("two", "plain"))
    assert max(np.abs(a[key] - b[key]).max() for key in a) < 1e-3


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory):
    """A real MLflow server of its own process group."""
    folder = tmp_path_factory.mktemp("mlflow")
    with (folder / "log").open("w") as log:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [str(Path(sys.executable).with_name("mlflow")), "server", "--host=127.0.0.1", f"--port={port}"]
        command += [f"--backend-store-uri=sqlite:///{folder}/server.db", f"--artifacts-destination={folder}/artifacts"]
        env = environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true")
        server = subprocess.Popen([*command, "--workers=1"], stdout=log, stderr=log, env=env, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                MlflowClient(uri).search_experiments(max_results=1)
                break
            except Exception:
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.5)
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_killed_job_submitted_again_is_one_mlflow_run(cluster, runs, mlflow_server):
    overrides = (*LONG, f"run.storage={runs}", "run.name=job", "tracking.experiment=kills")
    process = start(cluster, *overrides, MLFLOW_TRACKING_URI=mlflow_server)
    client = MlflowClient(mlflow_server)

    def logged(metric="train/loss"):
        experiment = client.get_experiment_by_name("kills")
        found = client.search_runs([experiment.experiment_id]) if experiment else []
        assert len(found) <= 1
        return client.get_metric_history(found[0].info.run_id, metric) if found else []

    wait_for(lambda: len(logged()) >= 12, 120, process)
    for driver in mine("jobs/train.py"):
        driver.kill()
    process.communicate(timeout=60)
    assert process.returncode != 0
    code, output = submit(cluster, *overrides, MLFLOW_TRACKING_URI=mlflow_server)
    assert code == 0, output
    assert weights(runs, "job") == weights(runs, "plain")
    history = [(m.step, m.value) for m in logged()]
    assert history == [(step, pytest.approx(value, abs=0)) for step, value in series(runs, "plain")]
    for metric in ("eval/photos_x2/psnr_y", "eval/photos_x4/psnr_y_full", "cost/x2/gmacs"):
        found = [m.step for m in logged(metric)]
        assert found == sorted(set(found))
    assert [m.step for m in logged("eval/photos_x2/psnr_y")] == [60, 120]
    run = client.get_run(client.search_runs([client.get_experiment_by_name("kills").experiment_id])[0].info.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["model.encoder.channels"] == "8"
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "model.safetensors", "psnr_over_scale.png", "crops.png", "checkpoint"} <= artifacts
    _loads_from_the_registry(mlflow_server)


def _loads_from_the_registry(uri):
    """In a process that cannot see this repository."""
    code = f"""
import sys
sys.path = [p for p in sys.path if p not in ("", {str(ROOT)!r})]
import mlflow, numpy as np
mlflow.set_tracking_uri({uri!r})
model = mlflow.pyfunc.load_model("models:/anysr@latest")
answer = model.predict(np.random.rand(2, 3, 9, 7).astype(np.float32), params={{"scale": 2.37}})
assert answer.shape == (2, 3, 21, 17), answer.shape
"""
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd="/")


def test_errors_in_a_job_are_one_line_and_a_non_zero_exit(cluster, tmp_path):
    code, output = submit(cluster, JSONL, f"run.storage={tmp_path}", f"data.train={tmp_path}/absent")
    assert code == 2
    assert "error: no folder of photos" in output
    assert "Traceback" not in output


def test_a_job_that_somebody_stopped_did_not_succeed(cluster, tmp_path):
    process = start(cluster, "train.steps=100000", JSONL, f"run.storage={tmp_path}", "run.name=r")
    wait_for(lambda: len(series(tmp_path, "r")) >= 1, 120, process)
    command = mine("job", "submit", "--submission-id")[0].cmdline()
    stop = [command[0], command[1], "job", "stop", "--no-wait", command[command.index("--submission-id") + 1]]
    subprocess.run(stop, env=environment(**cluster.environment), capture_output=True, check=True)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "the job was stopped" in output


def test_an_interrupted_command_leaves_no_process(tmp_path):
    """Ctrl-C while `make train`'s command runs on a cluster that it started itself."""
    command = submit_command("train.steps=100000", JSONL, f"run.storage={tmp_path}", "run.name=r")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    wait_for(lambda: len(series(tmp_path, "r")) >= 2, 120, process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) > 5
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
