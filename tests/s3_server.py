"""A real S3 server (SeaweedFS, from PyPI) in a process group of its own, on free ports of loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config

from pipeline.on_ray.cluster import free_ports

_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
    "s3.port.iceberg",
    "s3.port.lance",
    "admin.port",
    "admin.port.grpc",
)
BUCKET = "sr-test"


class S3Server:
    """Keeps its objects in a folder; can be killed and started again on the same ports."""

    def __init__(self, folder: Path, access_key: str = "an-access-key", secret_key: str = "a-secret-key") -> None:
        self._folder, self._keys = folder, (access_key, secret_key)
        self._ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{self._ports['s3.port']}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs."""
        return {
            "AWS_ACCESS_KEY_ID": self._keys[0],
            "AWS_SECRET_ACCESS_KEY": self._keys[1],
            "AWS_ENDPOINT_URL": self.endpoint,
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        command = [str(Path(sys.executable).with_name("weed")), "mini", f"-dir={data}", "-ip=127.0.0.1"]
        command += ["-ip.bind=127.0.0.1", f"-bucket={BUCKET}", "-admin.ui=false", "-webdav=false"]
        command += [f"-{name}={port}" for name, port in self._ports.items()]
        env = {**os.environ, "HOME": str(self._folder), **self.environment}
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=env, cwd=self._folder, start_new_session=True
            )
        self._wait()

    def _wait(self) -> None:
        client = self.client()
        deadline = time.monotonic() + 60
        while True:
            try:
                client.put_object(Bucket=BUCKET, Key="probe", Body=b"x")
                return
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
                ended = self._process is None or self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    self.kill()
                    raise RuntimeError(f"{error}: {(self._folder / 'log').read_text()[-1000:]}") from None
                time.sleep(0.2)

    def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def client(self):
        keys = {"aws_access_key_id": self._keys[0], "aws_secret_access_key": self._keys[1]}
        once = Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=5)
        return boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", config=once, **keys)


def running_server(folder: Path, secret_key: str = "a-secret-key") -> S3Server:
    """A started server, or the test is skipped with the reason."""
    server = S3Server(folder, secret_key=secret_key)
    try:
        server.start()
    except (OSError, RuntimeError) as error:
        pytest.skip(f"no S3 server: {error}")
    return server
