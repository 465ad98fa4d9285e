"""The way to a Ray cluster for commands that drive it themselves."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, one_line
from pipeline.listening import check_listening
from pipeline.on_ray.cluster import LocalCluster

# Read by Ray when it is imported; a cluster's token must be there too by then.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

_ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def connected(num_cpus: int | None = None) -> Iterator[None]:
    """A cluster while the block runs: the one at RAY_ADDRESS, or one on loopback that is gone afterwards.

    ``num_cpus`` is for the latter; None is all of this machine's.

    Raises:
        UserError: the cluster does not answer.
    """
    with ExitStack() as stack:
        address = os.environ.get("RAY_ADDRESS")
        if not address:
            cluster = stack.enter_context(LocalCluster(num_cpus=num_cpus))
            address = cluster.address
            os.environ.update({name: value for name, value in cluster.environment.items() if name != "RAY_ADDRESS"})
        import ray

        # The workers need this repository, installed or not. Ray's own helpers, such as the one that frees the
        # resources of a run whose driver was stopped, look for a cluster and give up where the host has several.
        path = os.pathsep.join(filter(None, [str(_ROOT), os.getenv("PYTHONPATH")]))
        environment = {"env_vars": {"PYTHONPATH": path, "RAY_ADDRESS": address}}
        init_ray(address, runtime_env=environment)
        stack.callback(ray.shutdown)
        yield


def init_ray(address: str | None = None, **options: Any) -> None:
    """``ray.init`` at an address, else at RAY_ADDRESS, else with a cluster of its own.

    SIGTERM is left to the command: Ray's handler aborts it, and leaves its cluster behind.

    Raises:
        UserError: the cluster does not answer.
    """
    import ray

    named = address or os.environ.get("RAY_ADDRESS", "")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _check_listening(named)
        ray.init(address, log_to_driver=False, logging_level="warning", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if not named:
            raise
        raise UserError(
            f"no Ray cluster answers at {named} ({one_line(error)[:200]}); correct RAY_ADDRESS, or unset it to "
            "have one started here"
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)


def _check_listening(address: str) -> None:
    """Ray itself would try for minutes. Addresses such as "auto" and "local" name no port."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        check_listening(host.strip("[]"), int(port))
