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

from pipeline.on_ray.cluster import NODE_PORTS, LocalCluster, free_ports

_WORKER_PORTS = 24
_TRIES = 4


class RayNode:
    """Joins ``cluster``."""

    def __init__(self, cluster: LocalCluster, num_cpus: int, log: Path) -> None:
        # A folder of its own, as on another machine: nodes that share one delete each other's working folders.
        self._temporary = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self.temporary = Path(self._temporary.name)
        ports = iter(free_ports(len(NODE_PORTS) + _WORKER_PORTS))
        command = [str(Path(sys.executable).with_name("ray")), "start", f"--address={cluster.address}", "--block"]
        command += ["--node-ip-address=127.0.0.1", f"--num-cpus={num_cpus}", "--disable-usage-stats"]
        command += [f"--{name}={next(ports)}" for name in NODE_PORTS]
        command.append(f"--temp-dir={self.temporary}")
        command += [f"--worker-port-list={','.join(map(str, ports))}", f"--object-store-memory={150 * 2**20}"]
        env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | cluster.node_environment()
        for _ in range(_TRIES):
            self._process = _start(command, env, log)
            if _has_started(self._process, log):
                return
            self.kill()
        raise AssertionError(log.read_text())

    def kill(self) -> None:
        """All of its processes at once, as when the power goes."""
        with suppress(psutil.Error):
            family = psutil.Process(self._process.pid)
            for process in [*family.children(recursive=True), family]:
                with suppress(psutil.Error):
                    process.kill()
        self._process.wait()
        self._temporary.cleanup()


def _start(command: list[str], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("w") as file:
        return subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )


def _has_started(process: subprocess.Popen[bytes], log: Path) -> bool:
    """Ray's own patience with a head that is slow to answer is 30 s, which a busy machine may take."""
    while "Ray runtime started" not in log.read_text():
        if process.poll() is not None:
            return False
        time.sleep(0.2)
    return True
