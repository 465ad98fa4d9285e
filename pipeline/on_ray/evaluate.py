"""Scores made by workers on Ray: each holds the models, takes one image and scale at a time, and may die."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pipeline.on_ray.cluster import LocalCluster

# Read by Ray when it is imported; a cluster's token must be there too by then.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from pipeline.errors import UserError, one_line
from pipeline.evaluation.plan import Evaluation, Unit
from pipeline.evaluation.rows import Row
from pipeline.evaluation.run import Scorer, exact_arithmetic
from pipeline.evaluation.score import failed, score

_ROOT = Path(__file__).resolve().parents[2]
_ATTEMPTS = 3  # at one unit, before it is taken to be what kills the workers


@contextmanager
def connected(num_workers: int | None) -> Iterator[None]:
    """A cluster while the block runs: the one at RAY_ADDRESS, or one on loopback that is gone afterwards.

    Raises:
        UserError: the cluster does not answer.
    """
    with ExitStack() as stack:
        address = os.environ.get("RAY_ADDRESS")
        if not address:
            cluster = stack.enter_context(LocalCluster(num_cpus=num_workers))
            address = cluster.address
            os.environ.update({name: value for name, value in cluster.environment.items() if name != "RAY_ADDRESS"})
        import ray

        # The workers need this repository, installed or not.
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.getenv("PYTHONPATH")]))}}
        try:
            ray.init(address, log_to_driver=False, logging_level="warning", runtime_env=environment)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"no Ray cluster answers at {address} ({one_line(error)[:200]}); correct RAY_ADDRESS, or unset it to "
                "have one started here, or add --local"
            ) from None
        stack.callback(ray.shutdown)
        yield


def over_workers(num_workers: int | None) -> Scorer:
    """A scorer that spreads units over so many workers of the connected cluster; None for one on each CPU."""

    def scorer(evaluation: Evaluation, units: Sequence[Unit]) -> Iterator[tuple[Unit, list[Row]]]:
        import ray

        count = num_workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        yield from _Workers(evaluation, min(count, len(units))).score(units)

    return scorer


class _Worker:
    """Runs in an actor."""

    def __init__(self) -> None:
        self._arithmetic = ExitStack()
        self._arithmetic.enter_context(exact_arithmetic())
        self._evaluation: Evaluation | None = None

    def ready(self) -> None:
        """Answers once it is there."""

    def score(self, evaluation: list[Any], unit: Unit) -> list[Row]:
        """The rows of a unit; a worker fetches the models once, and again if it was restarted."""
        if self._evaluation is None:
            import ray
            import torch

            fetched: Evaluation = ray.get(evaluation[0])
            self._evaluation = fetched.on(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        return score(self._evaluation, unit)


class _Workers:
    def __init__(self, evaluation: Evaluation, count: int) -> None:
        import ray

        self._ray, self._evaluation = ray, evaluation
        self._shared = [ray.put(evaluation)]  # in a list, or Ray would fetch it for every call
        actor = ray.remote(_Worker)
        resources = _resources(ray.cluster_resources(), count)
        self._actors = [actor.options(max_restarts=-1, **resources).remote() for _ in range(count)]
        try:
            ray.get([one.ready.remote() for one in self._actors])
        except ray.exceptions.RayError as error:
            raise UserError(f"the workers cannot start: {one_line(error)[-500:]}") from None

    def score(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, list[Row]]]:
        ray = self._ray
        waiting = deque((unit, 1) for unit in units)
        idle, running = list(self._actors), dict[Any, tuple[Any, Unit, int]]()
        while waiting or running:
            while waiting and idle:
                actor, (unit, attempt) = idle.pop(), waiting.popleft()
                running[actor.score.remote(self._shared, unit)] = (actor, unit, attempt)
            ready, _ = ray.wait(list(running))
            actor, unit, attempt = running.pop(ready[0])
            idle.append(actor)
            try:
                yield unit, ray.get(ready[0])
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError:  # the worker died and is started again
                if attempt < _ATTEMPTS:
                    waiting.append((unit, attempt + 1))
                else:
                    yield unit, failed(self._evaluation, unit, f"the worker died {_ATTEMPTS} times; out of memory?")


def _resources(cluster: dict[str, float], count: int) -> dict[str, float]:
    """What each worker is given; Ray would wait for CPUs that never come."""
    if cluster.get("CPU", 0) < count:
        raise UserError(f"the cluster has {cluster.get('CPU', 0):g} CPUs, too few for {count} workers; lower --workers")
    return {"num_cpus": 1, "num_gpus": min(1.0, cluster.get("GPU", 0) / count)}
