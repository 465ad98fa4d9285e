"""`mlflow models serve` on a registered network: a real server, a real request."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
import requests
import torch
from mlflow import MlflowClient

import anysr
from pipeline.on_ray.cluster import free_ports
from pipeline.tracking.mlflow_model import register
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A network, and the address of a server of it that was started as the documentation says."""
    folder = tmp_path_factory.mktemp("served")
    torch.manual_seed(0)
    model = anysr.build(tiny_config().model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    anysr.save(model, folder / "model.safetensors")
    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("x", artifact_location=(folder / "artifacts").as_uri()))
    version = register(folder / "model.safetensors", None, uri, run.info.run_id, "anysr", {})
    port = free_ports(1)[0]
    command = ["models", "serve", "-m", f"models:/anysr/{version}", "--env-manager", "local", "-p", str(port)]
    # MLflow looks for its web server on the PATH, as it is where the environment is activated.
    scripts = Path(str(importlib.metadata.distribution("uvicorn").locate_file("../../../bin"))).resolve()
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [str(Path(sys.executable).with_name("mlflow")), *command],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        yield model, wait_for(f"http://127.0.0.1:{port}", server, folder / "log")
    finally:
        server.terminate()
        server.wait(timeout=60)


def wait_for(address, server, log):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            requests.get(f"{address}/ping", timeout=5).raise_for_status()
            return address
        except requests.RequestException:
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-2000:])


def ask(address, lr, **params):
    body = {"inputs": lr.tolist(), "params": params}
    return requests.post(f"{address}/invocations", json=body, timeout=120)


@pytest.mark.parametrize(
    "params", [{}, {"scale": 2.37}, {"scale": 1.5, "subnet": "full"}, {"scale": 3.0, "subnet": "0"}]
)
def test_a_request_is_answered_as_the_network_does(served, params):
    model, address = served
    lr = torch.rand(1, 3, 7, 9)
    given = ask(address, lr, **params)
    assert given.status_code == 200, given.text
    subnet = params.get("subnet", "auto")
    with torch.no_grad():
        expected = model(lr, params.get("scale", 2.0), subnet=int(subnet) if subnet.isdigit() else subnet)
    np.testing.assert_allclose(np.array(given.json()["predictions"]), expected.clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("lr", "params"),
    [
        (torch.rand(1, 4, 7, 9), {}),
        (torch.rand(1, 3, 7, 9), {"scale": 0.5}),
        (torch.rand(1, 3, 7, 9), {"scale": "x"}),
        (torch.rand(1, 3, 7, 9), {"subnet": "9"}),
        (torch.rand(1, 3, 7, 9), {"subnet": "wide"}),
    ],
)
def test_a_wrong_request_is_refused(served, lr, params):
    given = ask(served[1], lr, **params)
    assert given.status_code == 400, given.text
    assert "predictions" not in given.json()
