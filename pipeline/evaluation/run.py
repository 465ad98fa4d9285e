"""One evaluation: which scores are missing, having them made, and keeping them as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from pipeline.evaluation.plan import Evaluation, Unit
from pipeline.evaluation.rows import Key, Row, RowStore
from pipeline.evaluation.score import score
from pipeline.evaluation.scoring import exact_arithmetic

Scorer = Callable[[Evaluation, Sequence[Unit]], Iterator[tuple[Unit, list[Row]]]]
_EVERY_S = 5.0


def evaluate(evaluation: Evaluation, store: RowStore, scorer: Scorer, say: Callable[[str], None]) -> list[Row]:
    """Make the scores that ``store`` lacks; all of them, in the order asked for.

    Args:
        evaluation: what to score.
        store: where rows are kept, from the moment they are made.
        scorer: makes the rows of units, in any order: :func:`in_this_process`, or workers on Ray.
        say: shows a line of progress.
    """
    units = evaluation.units()
    missing = [replace(unit, keys=left) for unit in units if (left := _left(unit, store))]
    if len(missing) < len(units):
        say(f"{len(units) - len(missing)} of {len(units)} images and scales are there already")
    pace = _Pace(len(missing), say)
    if missing:
        for unit, rows in scorer(evaluation, missing):
            store.add(rows)
            pace.advance(f"{evaluation.suites[unit.suite].name} x{unit.scale}")
    return [_renamed(evaluation, store[key]) for unit in units for key in unit.keys]


def in_this_process(evaluation: Evaluation, units: Sequence[Unit]) -> Iterator[tuple[Unit, list[Row]]]:
    """Units one after the other, on the GPU if there is one."""
    with exact_arithmetic():
        placed = evaluation.on(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        for unit in units:
            yield unit, score(placed, unit)


class _Pace:
    """Says now and then how far it is and how long it will take."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self._total, self._say, self._done = total, say, 0
        self._start = self._shown = time.monotonic()

    def advance(self, at: str) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._shown > _EVERY_S or self._done == self._total:
            left_s = (now - self._start) / self._done * (self._total - self._done)
            self._say(f"{self._done}/{self._total}  {at}  about {_duration(left_s)} left")
            self._shown = now


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes}:{rest:02d} min"


def _left(unit: Unit, store: RowStore) -> tuple[Key, ...]:
    return tuple(key for key in unit.keys if key not in store)


def _renamed(evaluation: Evaluation, row: Row) -> Row:
    """With the name that the model goes by now."""
    names = {c.upscaler.digest: c.upscaler.name for c in evaluation.candidates}
    return replace(row, model=names[row.model_digest])
