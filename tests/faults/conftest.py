"""Servers and a cluster of two nodes that the tests share: S3, MLflow on PostgreSQL, Ray with a token.

The secrets of all of them are markers, which a test looks for wherever anything is written.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.on_ray.cluster import LocalCluster
from pipeline.storage.places import S3Uri
from pipeline.storage.transfer import upload
from tests.mlflow_server import MlflowServer, running_mlflow
from tests.ray_node import RayNode
from tests.s3_proxy import S3Proxy
from tests.s3_server import BUCKET, S3Server, running_server

PHOTOS = Path(__file__).resolve().parents[2] / "pipeline/data/photos"


@dataclass
class Store:
    """An S3 server behind a proxy that can make it misbehave, and photos on it."""

    server: S3Server
    proxy: S3Proxy
    folder: Path
    overrides: tuple[str, ...]
    runs: S3Uri


@dataclass
class TwoNodes:
    """A head with one CPU and a second node with another."""

    head: LocalCluster
    node: RayNode
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return self.head.environment


@pytest.fixture(scope="session")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.fixture(scope="session")
def store(tmp_path_factory, patch) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("s3")
    server = running_server(folder, secret_key=f"marker-{secrets.token_hex(16)}")
    proxy = S3Proxy(server.endpoint)
    for name, value in server.environment.items():
        patch.setenv(name, value)
    for name in ("AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL"):
        patch.setenv(name, proxy.endpoint)
    photos = S3Uri(BUCKET, "photos")
    for split in ("train", "validation"):
        for photo in sorted((PHOTOS / split).iterdir())[:4]:
            upload(photo, photos / split / photo.name)
    data = (f"data.train={photos}/train", f"data.validation={photos}/validation")
    yield Store(server, proxy, folder, data, S3Uri(BUCKET, "runs"))
    proxy.close()
    server.kill()


@pytest.fixture(scope="session")
def mlflow_server(store) -> Iterator[MlflowServer]:
    with running_mlflow(f"s3://{BUCKET}/mlflow", dict(os.environ)) as server:
        yield server


@pytest.fixture(scope="session")
def cluster(store, tmp_path_factory, patch) -> Iterator[TwoNodes]:
    patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # whatever else fills this machine's memory
    folder = tmp_path_factory.mktemp("ray")
    with LocalCluster(num_cpus=1, object_store_bytes=150 * 2**20, joinable=True) as head:
        two = TwoNodes(head, RayNode(head, 1, folder / "node.log"), folder)
        yield two
        two.node.kill()
