"""A Ray cluster of one node for one command: own free ports on loopback, own token, gone afterwards."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

import psutil

from pipeline.errors import UserError

# The servers of every node, and those of the first one beside them.
NODE_PORTS = (
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "node-manager-port",
    "object-manager-port",
)
_PORTS = ("port", "dashboard-port", *NODE_PORTS, "ray-client-server-port")
# Servers whose ports Ray takes from the environment; fixed ones would collide with another cluster's.
_PORT_VARIABLES = ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")
_WORKER_PORTS = 64
# Ray's own processes share the processors with the workers: what nobody looks at on one machine is off, and the
# workers are not put behind (Ray's default is a niceness of 15).
_FEWER_INTERRUPTIONS = {
    "RAY_enable_metrics_collection": "0",
    "RAY_metrics_report_interval_ms": "60000",
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 5.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


class LocalCluster:
    """Starts Ray on entering the block; leaving it ends every process that came of it.

    Attributes:
        environment: what a client process needs to reach the cluster.
        address: where drivers connect, with that environment, and other nodes join, as host:port.
        temporary: Ray's folder of sockets and logs.
    """

    def __init__(
        self, num_cpus: int | None = None, object_store_bytes: int = 200 * 2**20, joinable: bool = False
    ) -> None:
        self._num_cpus = num_cpus
        self._object_store_bytes = object_store_bytes
        self._joinable = joinable  # by other nodes; Ray's own servers then listen on all of this machine's addresses
        self._stack = ExitStack()
        self.environment: dict[str, str] = {}
        self.address, self.temporary = "", Path()

    def __enter__(self) -> LocalCluster:
        # A short path: the sockets beneath it may have at most 107 characters.
        temporary = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
        self.temporary = Path(temporary)
        ports = iter(free_ports(len(_PORTS) + len(_PORT_VARIABLES) + _WORKER_PORTS))
        named = {name: next(ports) for name in _PORTS}
        dashboard = f"http://127.0.0.1:{named['dashboard-port']}"
        self.address = f"127.0.0.1:{named['port']}"
        self.environment = {
            "RAY_ADDRESS": dashboard,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray takes the machine's outward address for a loopback one, unless it is told that
            # there is nobody to cluster with; then all its servers bind loopback only.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1" if self._joinable else "0",
            **_FEWER_INTERRUPTIONS,
            **{name: str(next(ports)) for name in _PORT_VARIABLES},
        }
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
        command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={temporary}"]
        command += [f"--{name}={port}" for name, port in named.items()]
        command += [f"--worker-port-list={','.join(map(str, ports))}"]
        command += [f"--object-store-memory={self._object_store_bytes}", "--disable-usage-stats"]
        command += ["--include-log-monitor=false"]  # no driver here asks for its workers' logs
        if self._num_cpus is not None:
            command.append(f"--num-cpus={self._num_cpus}")
        log_path = Path(temporary) / "start.log"
        _adopt_orphans()
        self._stack.callback(_end_descendants)
        try:
            with log_path.open("w") as log:
                process = subprocess.Popen(
                    command,
                    env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | self.node_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is ours to handle, in order
                    preexec_fn=_prepare_head,
                )
            self._await_dashboard(dashboard, process, log_path)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def node_environment(self) -> dict[str, str]:
        """What a node's processes need beside this process's own variables."""
        environment = {key: value for key, value in self.environment.items() if key != "RAY_ADDRESS"}
        # A job's `python` is to be this one.
        return environment | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}

    def _await_dashboard(self, url: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        request = urllib.request.Request(
            f"{url}/api/jobs/", headers={"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        )
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise UserError(f"Ray did not start: {log_path.read_text()[-1500:]}")
            try:
                with urllib.request.urlopen(request, timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        raise UserError(f"Ray did not answer within {_START_TIMEOUT_S:g} s: {log_path.read_text()[-1500:]}")


def _adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent dies, so that none gets lost."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _prepare_head() -> None:
    """The head gets SIGTERM when this process dies, however it dies, and takes its children along.

    As batch processes, which they all become, Ray's do not break into a worker's step whenever one of their many
    timers rings: they wait for its time slice to end.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _end_descendants() -> None:
    """First ask, then kill, every process that came of this one."""
    myself = psutil.Process()
    for process in myself.children(recursive=True):
        with suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(myself.children(recursive=True), timeout=_STOP_TIMEOUT_S)
    while alive := myself.children(recursive=True):
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=1)


def free_ports(count: int) -> list[int]:
    """TCP ports of loopback that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
