"""MLflow on PostgreSQL with artifacts on S3: the operators' own script, as a fixture."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.on_ray.cluster import free_ports

SCRIPT = Path(__file__).resolve().parent.parent / "infra/mlflow/serve_here.sh"


class MlflowServer:
    """Can be killed and started again on the same ports and database."""

    def __init__(self, folder: Path, artifacts: str, environment: dict[str, str]) -> None:
        self.folder, self._artifacts, self._environment = folder, artifacts, environment
        self._ports = [str(port) for port in free_ports(2)]
        self._process: subprocess.Popen[bytes] | None = None
        self.uri = f"http://127.0.0.1:{self._ports[0]}"

    def start(self) -> None:
        env = {**os.environ, **self._environment, "MLFLOW": str(Path(sys.executable).with_name("mlflow"))}
        with (self.folder / "script.log").open("a") as log:
            command = [str(SCRIPT), str(self.folder / "server"), self._artifacts, *self._ports]
            self._process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 300
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "script.log").read_text()[-1000:]) from None
                time.sleep(0.3)

    def stop(self) -> None:
        """The server is away: it ends, and its port is closed."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=60)
            self._process = None


@contextmanager
def running_mlflow(artifacts: str, environment: dict[str, str]) -> Iterator[MlflowServer]:
    """A started server, or the test is skipped with the reason."""
    # Not below pytest's folder: PostgreSQL runs as another user than root, who must reach it.
    with tempfile.TemporaryDirectory(prefix="mlflow-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        server = MlflowServer(Path(folder), artifacts, environment)
        try:
            try:
                server.start()
            except (OSError, RuntimeError) as error:
                pytest.skip(f"no MLflow on PostgreSQL: {error}")
            yield server
        finally:
            server.stop()
