"""Progress from worker 0 to the driver, which shows it: one line, one place, no log prefixes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.train.context import Progress
from pipeline.train.display import Display

Event = Progress | str
_POLL_S = 0.5


@ray.remote(num_cpus=0)
class Mailbox:
    """Holds events until the driver takes them, and the driver's wish to stop until the workers see it."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stopping = False

    def put(self, event: Event) -> None:
        """Add an event."""
        self._events.append(event)

    def take(self) -> list[Event]:
        """All events since the last call."""
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Ask the workers to save and stop."""
        self._stopping = True

    def is_stopping(self) -> bool:
        """Whether they were asked to."""
        return self._stopping


@contextmanager
def shown_progress(total_steps: int) -> Iterator[Any]:
    """A mailbox whose events are displayed here while the block runs."""
    # On the driver's own node: it must not go with another one.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = Mailbox.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    done = threading.Event()
    with Display(sys.stdout, total_steps) as display:
        thread = threading.Thread(target=_show_all, args=(mailbox, display, done), name="progress", daemon=True)
        thread.start()
        try:
            yield mailbox
        finally:
            done.set()
            thread.join(timeout=10)


def _show_all(mailbox: Any, display: Display, done: threading.Event) -> None:
    last = False
    while not last:
        last = done.wait(_POLL_S)
        for event in ray.get(mailbox.take.remote()):
            display.show(event)
