"""Two nodes, data and checkpoints on S3, MLflow on PostgreSQL, a token: what goes wrong changes no weight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from ray.job_submission import JobStatus, JobSubmissionClient
from safetensors.numpy import load

from pipeline.storage import s3
from pipeline.storage.transfer import read_text
from tests.conftest import ROOT
from tests.integration.helpers import environment, submit_command, wait_for
from tests.ray_node import RayNode
from tests.tiny import OVERRIDES

LONG = ("train.steps=120", "train.checkpoint_every=10", "validation.every=60", "ray.num_workers=2")
RAY = str(Path(sys.executable).with_name("ray"))


def start(cluster, store, *overrides, **extra):
    command = submit_command(*LONG, *store.overrides, "tracking.backend=jsonl", f"run.storage={store.runs}", *overrides)
    env = environment(**cluster.environment, **extra)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def finish(process, code=0):
    output, _ = process.communicate(timeout=400)
    assert process.returncode == code, output
    return output


def weights(store, name):
    return s3.read(store.runs / name / "model.safetensors")


def series(store, name, metric="train/loss"):
    lines = (read_text(store.runs / name / "metrics.jsonl") or "").splitlines()
    return [(row["step"], row["value"]) for row in map(json.loads, lines) if row["name"] == metric]


def reached(store, name, step):
    return lambda: any(at >= step for at, _ in series(store, name))


@pytest.fixture(scope="module")
def undisturbed(cluster, store):
    finish(start(cluster, store, "run.name=undisturbed"))
    assert len(series(store, "undisturbed")) == 40
    return weights(store, "undisturbed")


def ray_job_submit(cluster, store, mlflow_server, name, **env):
    """As an operator types it: no help from jobs/submit.py."""
    runtime = {"env_vars": {"MLFLOW_TRACKING_URI": mlflow_server.uri}}
    command = [RAY, "job", "submit", f"--working-dir={ROOT}", f"--runtime-env-json={json.dumps(runtime)}", "--"]
    command += [sys.executable, "jobs/train.py", *OVERRIDES, *LONG, *store.overrides, f"run.storage={store.runs}"]
    everything = {**environment(**cluster.environment), "RAY_RUNTIME_ENV_IGNORE_GITIGNORE": "0", **env}
    done = subprocess.run([*command, f"run.name={name}"], env=everything, capture_output=True, text=True, timeout=400)
    return done.returncode, done.stdout + done.stderr


def test_without_the_token_a_job_is_refused(cluster, store, mlflow_server):
    for wrong in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}):
        code, output = ray_job_submit(cluster, store, mlflow_server, "refused", **wrong)
        assert code != 0
        assert "401" in output or "403" in output or "uthenticat" in output, output
    assert series(store, "refused") == []


def test_ray_job_submit_with_everything_remote(cluster, store, mlflow_server, undisturbed, tmp_path):
    code, output = ray_job_submit(cluster, store, mlflow_server, "submitted")
    assert code == 0, output
    assert "multiply-adds saved" in output
    assert weights(store, "submitted") == undisturbed
    client = MlflowClient(mlflow_server.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("anysr").experiment_id])
    history = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")]
    assert history == series(store, "undisturbed")
    on_s3 = {one.uri.name for one in s3.list_objects(s3.S3Uri(store.runs.bucket, "mlflow"))}
    assert {"model.safetensors", "config.yaml", "psnr_over_scale.png"} <= on_s3
    _no_secret_anywhere(cluster, store, mlflow_server, output)


def _no_secret_anywhere(cluster, store, mlflow_server, output):
    """In no file of Ray, S3 (all artifacts, checkpoints and results), MLflow or PostgreSQL, and in no job log."""
    hidden = {"AWS_SECRET_ACCESS_KEY": os.environ["AWS_SECRET_ACCESS_KEY"]}
    hidden["RAY_AUTH_TOKEN"] = cluster.environment["RAY_AUTH_TOKEN"]
    hidden["PostgreSQL's password"] = (mlflow_server.folder / "server/password").read_text()
    env = environment(**cluster.environment)
    jobs = subprocess.run([RAY, "job", "list", "--log-style=record"], env=env, capture_output=True, text=True).stdout
    assert "submission_id" in jobs
    allowed = {mlflow_server.folder / "server/password"}
    allowed |= {mlflow_server.folder / "server/postgres" / name for name in ("password", "pgpass")}
    places = [cluster.head.temporary, cluster.node.temporary, cluster.folder, store.folder, mlflow_server.folder]
    files = [file for place in places for file in place.rglob("*") if file.is_file() and file not in allowed]
    assert len(files) > 100
    for name, secret in hidden.items():
        assert secret not in output + jobs, name
        holding = [str(file) for file in files if secret.encode() in _content(file)]
        assert holding == [], name


def _content(file):
    try:
        return file.read_bytes()
    except OSError:  # ended meanwhile
        return b""


def test_errors_show_no_secret(cluster, store, mlflow_server):
    process = start(cluster, store, "run.name=bad", f"data.train=s3://{store.runs.bucket}/absent")
    output = finish(process, 2)
    assert "there is nothing below" in output
    assert "Traceback" not in output
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in output


def test_s3_refusing_slow_and_gone(cluster, store, undisturbed):
    process = start(cluster, store, "run.name=s3-faults", "ray.max_failures=0")
    wait_for(reached(store, "s3-faults", 6), 200, process)
    for fault, value, seconds in (("refusing", 503, 8), ("bytes_per_s", 100_000, 5)):
        setattr(store.proxy, fault, value)
        time.sleep(seconds)
        setattr(store.proxy, fault, None)
    store.server.kill()
    time.sleep(8)
    store.server.start()
    assert "resuming" not in finish(process)
    assert weights(store, "s3-faults") == undisturbed
    assert series(store, "s3-faults") == series(store, "undisturbed")


def test_a_stopped_job_saves_and_a_damaged_checkpoint_is_not_used(cluster, store, undisturbed):
    """SIGTERM, as `ray job stop` and Kubernetes send it; then a byte of what was saved is another."""
    client = _jobs(cluster)
    often = "train.checkpoint_every=2"  # slow enough to be stopped in the middle
    process = start(cluster, store, "run.name=stopped", often)
    wait_for(reached(store, "stopped", 6), 200, process)
    (job,) = [job.submission_id for job in client.list_jobs() if job.status == JobStatus.RUNNING]
    client.stop_job(job)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "stopping: saving a checkpoint first" in output
    assert "stopped at step" in output
    states = [one.uri for one in s3.list_objects(store.runs / "stopped") if one.uri.name == "state.pt"]
    content = bytearray(s3.read(states[-1]))
    content[len(content) // 2] ^= 1
    s3.write(states[-1], bytes(content))
    output = finish(start(cluster, store, "run.name=stopped", often))
    assert f"{states[-1].key.rpartition('/')[0]} is damaged (state.pt is not what was saved" in output
    assert "resuming at step" in output
    assert weights(store, "stopped") == undisturbed
    assert series(store, "stopped") == series(store, "undisturbed")


def _jobs(cluster):
    headers = {"Authorization": f"Bearer {cluster.environment['RAY_AUTH_TOKEN']}"}
    return JobSubmissionClient(cluster.environment["RAY_ADDRESS"], headers=headers)


def test_a_loss_that_is_no_number_ends_the_run_with_its_cause(cluster, store):
    process = start(cluster, store, "run.name=nan", "train.learning_rate=1e18", "train.checkpoint_every=1")
    output = finish(process, 2)
    (line,) = {line for line in output.splitlines() if line.startswith("error: ")}  # Ray's client repeats the last
    for word in ("the loss is", "at step", "group", "scale x", "photos", "the last checkpoint is kept"):
        assert word in line
    assert [one for one in s3.list_objects(store.runs / "nan") if one.uri.name == "state.pt"]


def test_a_node_lost_and_back(cluster, store, undisturbed):
    """Elastic: on with one worker, then with two; to rounding the weights of two workers all along."""
    elastic = ("ray.num_workers=[1, 2]", "ray.start_timeout_s=8", "ray.resize_every_s=2", "train.checkpoint_every=3")
    # A small learning rate: 600 steps blow roundings up to 2 % of a loss at 1e-3.
    longer = ("train.steps=600", "validation.every=600", "train.learning_rate=1e-4")
    process = start(cluster, store, "run.name=elastic", *elastic, *longer)
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.extend(process.stdout), daemon=True)
    reader.start()
    wait_for(reached(store, "elastic", 30), 200)
    cluster.node.kill()

    def resumed():
        return [line for line in output if "resuming at step" in line]

    wait_for(lambda: bool(resumed()) or process.poll() is not None, 200)
    cluster.node = RayNode(cluster.head, 1, cluster.folder / "node-again.log")
    code = process.wait(400)
    reader.join(10)
    assert code == 0, "".join(output[-30:])
    assert [" with 2 workers" in line for line in resumed()] == [False, True], output
    steps = [step for step, _ in series(store, "elastic")]
    assert steps == list(range(3, 601, 3))
    finish(start(cluster, store, "run.name=steady", *longer, "train.checkpoint_every=600"))
    np.testing.assert_allclose(*(np.array(series(store, name))[:, 1] for name in ("elastic", "steady")), rtol=1e-2)
    a, b = (load(weights(store, name)) for name in ("elastic", "steady"))
    assert max(np.abs(a[key] - b[key]).max() for key in a) < 1e-2
