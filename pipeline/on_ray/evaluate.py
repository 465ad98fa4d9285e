"""Scores made by workers on Ray: each holds the models, takes one image and scale at a time, and may die."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from pipeline.errors import UserError, one_line
from pipeline.evaluation.plan import Evaluation, Unit
from pipeline.evaluation.rows import Row
from pipeline.evaluation.run import Scorer
from pipeline.evaluation.score import failed, score
from pipeline.evaluation.scoring import exact_arithmetic

_ATTEMPTS = 3  # at one unit, before it is taken to be what kills the workers


def over_workers(num_workers: int | None) -> Scorer:
    """A scorer that spreads units over so many workers of the connected cluster; None for one on each CPU."""

    def scorer(evaluation: Evaluation, units: Sequence[Unit]) -> Iterator[tuple[Unit, list[Row]]]:
        from pipeline.on_ray.workers import worker_count

        yield from _Workers(evaluation, worker_count(num_workers, len(units))).score(units)

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

        from pipeline.on_ray.workers import worker_resources

        self._ray, self._evaluation = ray, evaluation
        self._shared = [ray.put(evaluation)]  # in a list, or Ray would fetch it for every call
        actor = ray.remote(_Worker)
        resources = worker_resources(count)
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
