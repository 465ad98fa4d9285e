"""How many workers a cluster has room for, and what each is given."""

from __future__ import annotations

import math

import ray

from pipeline.errors import UserError


def worker_count(asked: int | None, num_tasks: int) -> int:
    """As many as asked for, None for one on each CPU; never more than there are tasks."""
    return min(asked or max(1, int(ray.cluster_resources().get("CPU", 1))), num_tasks)


def worker_resources(count: int) -> dict[str, float]:
    """One CPU for each worker, and an equal share of a GPU, which is always one GPU's.

    Raises:
        UserError: there are too few CPUs; Ray would wait for more that never come.
    """
    cluster = ray.cluster_resources()
    if cluster.get("CPU", 0) < count:
        raise UserError(f"the cluster has {cluster.get('CPU', 0):g} CPUs, too few for {count} workers; lower --workers")
    gpus = int(cluster.get("GPU", 0))
    on_each = math.ceil(count / gpus) if gpus else 0
    # Rounded down: Ray counts in ten-thousandths, and what is more than a whole GPU together never fits.
    return {"num_cpus": 1, "num_gpus": 10_000 // on_each / 10_000 if on_each else 0.0}
