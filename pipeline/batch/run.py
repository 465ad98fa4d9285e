"""A batch from start to finish: what is missing, having it done, and telling what became of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from anysr.cli import shown
from anysr.cli.progress import Progress
from pipeline.batch.enlarge import Order, Outcome
from pipeline.batch.failures import keep_failures
from pipeline.batch.results import Results
from pipeline.batch.units import Unit

Spread = Callable[[Order, Sequence[Unit]], Iterator[Outcome]]


def enlarge_all(order: Order, units: Sequence[Unit], odd: Mapping[str, str], spread: Spread, asked: str) -> int:
    """Enlarge what is not there yet, and keep a table of what failed; answers how many failed.

    Args:
        order: what is wanted.
        units: the images.
        odd: images that cannot be enlarged, with the reason.
        spread: has units done, in any order.
        asked: the request in words, for the table.
    """
    results = Results(order.out)
    results.prepare()
    waiting = units if order.overwrite else _missing(order, results, units)
    num_there = len(units) - len(waiting)
    if num_there:
        _say(f"{num_there} of {len(units)} are there already (--overwrite)")
    for name, error in odd.items():
        _say(f"{shown(name)}: {error}")
    failures, num_done = dict(odd), 0
    try:
        for outcome in _shown_outcomes(spread(order, waiting), len(waiting)) if waiting else ():
            if outcome.error is None:
                num_done += 1
            else:
                failures[outcome.name] = outcome.error
    finally:
        table = keep_failures(order, failures, asked)
        where = f": see {shown(table)}" if failures else ""
        left = len(units) + len(odd) - num_there - num_done - len(failures)
        go_on = f"; {left} left, start it again to go on" if left else ""
        _say(f"{num_done} enlarged, {num_there} there already, {len(failures)} failed{where}{go_on}")
    return len(failures)


def _missing(order: Order, results: Results, units: Sequence[Unit]) -> list[Unit]:
    there = results.have([unit.target for unit in units], [order.mark(unit) for unit in units])
    return [unit for unit, is_there in zip(units, there, strict=True) if not is_there]


def _shown_outcomes(outcomes: Iterator[Outcome], total: int) -> Iterator[Outcome]:
    progress = None
    for outcome in outcomes:
        progress = progress or Progress(total, outcome.seconds)  # the workers' start is not part of the pace
        prefix = progress.finish_one()
        for note in outcome.notes:
            _say(f"note: {shown(outcome.name)}: {note}")
        if outcome.error is None:
            print(f"{prefix}{shown(outcome.name)}: {outcome.line}", flush=True)
        else:
            _say(f"{prefix}{shown(outcome.name)}: {outcome.error}")
        yield outcome


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
