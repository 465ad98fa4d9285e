"""How many workers a cluster has room for, and what each is given."""

from __future__ import annotations

import ray

from pipeline.errors import UserError


def worker_count(asked: int | None, num_tasks: int) -> int:
    """As many as asked for, None for one on each CPU; never more than there are tasks."""
    return min(asked or max(1, int(ray.cluster_resources().get("CPU", 1))), num_tasks)


def worker_resources(count: int) -> dict[str, float]:
    """One CPU for each worker, and an equal share of the GPUs.

    Raises:
        UserError: there are too few CPUs; Ray would wait for more that never come.
    """
    cluster = ray.cluster_resources()
    if cluster.get("CPU", 0) < count:
        raise UserError(f"the cluster has {cluster.get('CPU', 0):g} CPUs, too few for {count} workers; lower --workers")
    return {"num_cpus": 1, "num_gpus": min(1.0, cluster.get("GPU", 0) / count)}
