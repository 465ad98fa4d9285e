"""Images enlarged by Ray Data: a pool of actors that hold the network, fed with places, not with pixels.

An actor reads, enlarges and writes one image at a time, so that memory is bounded by the number of actors,
however many images there are.
"""

from __future__ import annotations

import logging
import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.batch.enlarge import Enlarger, Order, Outcome
from pipeline.batch.run import Spread
from pipeline.batch.units import Unit
from pipeline.errors import UserError, one_line

_ATTEMPTS = 3  # at an image, before it is taken to be what kills the actors


def over_actors(num_workers: int | None) -> Spread:
    """Spreads units over so many actors of the connected cluster; None for one on each CPU."""

    def spread(order: Order, units: Sequence[Unit]) -> Iterator[Outcome]:
        from ray.exceptions import RayError

        try:
            for row in _outcomes(order, units, num_workers).iter_rows():
                yield pickle.loads(row["outcome"])
        except RayError as error:
            why = f"Ray gave up ({one_line(error)[-500:]})"
            raise UserError(f"{why}; what is done is kept, start it again to go on") from None

    return spread


class _Desk:
    """An actor on the driver's node, where the others fetch the order and say which image they begin.

    Ray Data gives an image to another actor as often as one dies of it; the desk's count ends that.
    """

    def __init__(self, order: Order) -> None:
        self._order, self._begun = order, Counter[str]()

    def order(self) -> Order:
        return self._order

    def begin(self, name: str) -> int:
        """How often an image has been begun, this time included."""
        self._begun[name] += 1
        return self._begun[name]


class _Actor:
    def __init__(self, desk: Any) -> None:
        import ray

        self._desk, self._enlarger = desk, Enlarger(ray.get(desk.order.remote()))

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        import ray

        unit: Unit = pickle.loads(row["unit"])
        if ray.get(self._desk.begin.remote(unit.name)) > _ATTEMPTS:
            why = f"the worker died {_ATTEMPTS} times at it; if memory ran out, give fewer --workers or --memory"
            return {"outcome": pickle.dumps(Outcome(unit.name, error=why))}
        return {"outcome": pickle.dumps(self._enlarger.enlarge(unit))}


def _outcomes(order: Order, units: Sequence[Unit], num_workers: int | None) -> Any:
    """A dataset of one outcome for each unit, in the order in which they are done."""
    import ray
    from ray.data import ActorPoolStrategy
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from pipeline.on_ray.workers import worker_count, worker_resources

    _silence()
    count = worker_count(num_workers, len(units))
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    desk = ray.remote(_Desk).options(num_cpus=0, scheduling_strategy=here).remote(order)
    # Names of files may hold anything, and Arrow's strings only UTF-8. One image to a block: an actor's death
    # costs no other image.
    rows = [{"unit": pickle.dumps(unit)} for unit in units]
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _Actor,
        fn_constructor_args=[desk],
        compute=ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
        **worker_resources(count),
    )


def _silence() -> None:
    """Ray Data's own displays: the batch shows what is done, and an error comes out as one."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
