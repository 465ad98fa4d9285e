"""A bound on how long a hostile file may keep a decoder busy."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from anysr.imaging.picture import ImageError


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise :class:`ImageError` when the body takes longer.

    It works where signals do: in the main thread, on POSIX systems. Elsewhere the body just runs.
    Decoders hand control back between chunks of a file, and are stopped there.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise ImageError(f"{what} takes longer than {seconds:g} s")

    before, started = signal.signal(signal.SIGALRM, stop), time.monotonic()
    others_s, interval_s = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if others_s:  # an alarm of the caller's goes on
            left_s = max(1e-3, others_s - (time.monotonic() - started))
            signal.setitimer(signal.ITIMER_REAL, left_s, interval_s)
