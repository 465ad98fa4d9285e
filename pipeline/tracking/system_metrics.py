"""The driver machine's load, through the same buffer as all metrics.

MLflow's own monitor ends for good when its server is away for a moment; its probes are used here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from pipeline.errors import UserError
from pipeline.tracking.metric_log import MetricLog

_EVERY_S = 10.0
_FLUSH_S = 5.0


@contextmanager
def recorded_load(log: MetricLog, started_ms: int) -> Iterator[None]:
    """Record CPU, memory, disk, network and GPU load while the block runs, then close the log.

    Args:
        log: where to.
        started_ms: when the run first began, since the epoch; steps are seconds from then, so that a
            run that was resumed goes on counting.
    """
    done = threading.Event()
    thread = threading.Thread(target=_record, args=(log, started_ms, done), name="load", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(_FLUSH_S)
        with suppress(UserError):  # the tracker is away: the run's end does not wait for the last samples
            log.flush(_FLUSH_S)
        log.close()


def _record(log: MetricLog, started_ms: int, done: threading.Event) -> None:
    probes = list(_probes())
    while not done.wait(_EVERY_S):
        values: dict[str, float] = {}
        for probe in probes:
            probe.collect_metrics()
            values |= probe.aggregate_metrics()
            probe.clear_metrics()
        step = int(time.time() - started_ms / 1000)
        log.add(step, {f"system/{name}": float(value) for name, value in values.items()})


def _probes() -> Iterator[Any]:
    for kind in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor):
        with suppress(Exception):  # a machine without a GPU, or without what would ask it
            yield kind()
