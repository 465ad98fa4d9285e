"""Signals that ask a run to save and stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def on_stop_signals(handler: Handler, *more: signal.Signals) -> Iterator[Callable[[], None]]:
    """SIGTERM, a terminal that is closed and ``more`` call the handler while the block runs; for the main thread.

    Not a terminal that the process is to outlast, as ``nohup`` tells it. What is yielded ends it early.
    """
    numbers = [signal.SIGTERM, *more]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, earlier in before.items():
            signal.signal(number, earlier)

    for number in numbers:
        signal.signal(number, handler)
    try:
        yield restore
    finally:
        restore()
