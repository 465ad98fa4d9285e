"""Progress of something long, with the time left: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_EVERY_S = 5.0
Update = Callable[[int, int | None], None]


@contextmanager
def shown_progress(what: str, unit: str, stream: TextIO | None = None) -> Iterator[Update]:
    """A function to call with what is done and, where known, what there is in all.

    Args:
        what: the line's beginning.
        unit: "MB" counts bytes; anything else is counted as it is.
        stream: standard error for None.
    """
    console = Console(file=stream or sys.stderr)
    meter = _Meter(what, unit)
    if not console.is_terminal:
        yield meter.update(lambda line, _: console.print(line, highlight=False, markup=False, soft_wrap=True), _EVERY_S)
        return
    with Progress(BarColumn(), TextColumn("{task.description}"), console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        show = lambda line, share: bar.update(task, description=line, completed=share, total=1.0)  # noqa: E731
        yield meter.update(show, 0.2)


class _Meter:
    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._factor = 1e-6 if unit == "MB" else 1.0

    def update(self, show: Callable[[str, float], object], every_s: float) -> Update:
        began = shown = time.monotonic()
        first: int | None = None

        def update(done: int, total: int | None) -> None:
            nonlocal shown, first
            first = done if first is None or done < first else first
            now = time.monotonic()
            if now - shown >= every_s:
                shown = now
                show(self._line(done, total, (done - first) / (now - began)), done / total if total else 0.0)

        return update

    def _line(self, done: int, total: int | None, pace: float) -> str:
        shown = f"{self._what}  {done * self._factor:,.0f}"
        if total is None:
            return f"{shown} {self._unit}, {pace * self._factor:.1f} {self._unit}/s"
        left = "?" if pace <= 0 else "{}:{:02d}".format(*divmod(int((total - done) / pace + 0.5), 60))
        return (
            f"{shown} of {total * self._factor:,.0f} {self._unit}, {pace * self._factor:.1f} {self._unit}/s, ETA {left}"
        )
