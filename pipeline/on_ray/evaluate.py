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
from pipeline.evaluation.run import Scorer
from pipeline.evaluation.score import failed, score
from pipeline.evaluation.scoring import exact_arithmetic

_ROOT = Path(__file__).resolve().parents[2]
_ATTEMPTS = 3  # at one unit, before it is taken to be what kills the workers


@contextmanager
def connected(num_workers: int) -> Iterator[None]:
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


def over_workers(num_workers: int) -> Scorer:
    """A scorer that spreads units over so many workers of the connected cluster."""

    def scorer(evaluation: Evaluation, units: Sequence[Unit]) -> Iterator[tuple[Unit, list[Row]]]:
        yield from _Workers(evaluation, min(num_workers, len(units))).score(units)

    return scorer


class _Worker:
    """Runs in an actor."""

    def __init__(self, shared: list[Any]) -> None:
        import ray
        import torch

        self._arithmetic = ExitStack()
        self._arithmetic.enter_context(exact_arithmetic())
        evaluation: Evaluation = ray.get(shared[0])
        self._evaluation = evaluation.on(torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def ready(self) -> None:
        """Answers once the models are there."""

    def score(self, unit: Unit) -> list[Row]:
        """The rows of a unit."""
        return score(self._evaluation, unit)


class _Workers:
    def __init__(self, evaluation: Evaluation, count: int) -> None:
        import ray

        self._ray, self._evaluation = ray, evaluation
        self._shared = ray.put(evaluation)  # held here: a restarted actor reads it again
        actor = ray.remote(_Worker)
        resources = _resources(ray.cluster_resources(), count)
        self._actors = [actor.options(max_restarts=-1, **resources).remote([self._shared]) for _ in range(count)]
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
                running[actor.score.remote(unit)] = (actor, unit, attempt)
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
