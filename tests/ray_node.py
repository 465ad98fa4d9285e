"""One more node (a raylet with its workers) for a cluster on this machine, that can be killed and come back."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.on_ray.cluster import LocalCluster, free_ports

_PORTS = (
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "node-manager-port",
    "object-manager-port",
)
_WORKER_PORTS = 24


class RayNode:
    """Joins ``cluster``."""

    def __init__(self, cluster: LocalCluster, num_cpus: int, log: Path) -> None:
        # A folder of its own, as on another machine: nodes that share one delete each other's working folders.
        self._temporary = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self.temporary = Path(self._temporary.name)
        ports = iter(free_ports(len(_PORTS) + _WORKER_PORTS))
        command = [str(Path(sys.executable).with_name("ray")), "start", f"--address={cluster.address}", "--block"]
        command += ["--node-ip-address=127.0.0.1", f"--num-cpus={num_cpus}", "--disable-usage-stats"]
        command += [f"--{name}={next(ports)}" for name in _PORTS]
        command.append(f"--temp-dir={self.temporary}")
        command += [f"--worker-port-list={','.join(map(str, ports))}", f"--object-store-memory={150 * 2**20}"]
        env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | cluster.node_environment()
        self._log = log
        with log.open("a") as file:
            self._process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 200
        while "Ray runtime started" not in self._log.read_text():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """All of its processes at once, as when the power goes."""
        with suppress(psutil.Error):
            family = psutil.Process(self._process.pid)
            for process in [*family.children(recursive=True), family]:
                with suppress(psutil.Error):
                    process.kill()
        self._process.wait()
        self._temporary.cleanup()
