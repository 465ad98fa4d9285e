"""Metrics on their way to a sink: sent in the background, in order, exactly once.

A dead sink never stalls training: metrics wait in a buffer, and each checkpoint carries those that
had not been sent by then. After a resume the same steps run again, so the log asks the sink how far
each metric got and drops what is already there.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Protocol

from anysr.files import write_whole
from pipeline.errors import UserError, one_line
from pipeline.files import parsed_lines
from pipeline.storage import s3
from pipeline.storage.places import Place, S3Uri, parse_place


@dataclass(frozen=True)
class Metric:
    """One value of one metric at one step."""

    name: str
    value: float
    step: int
    timestamp_ms: int


class Sink(Protocol):
    """Where metrics end up."""

    def last_steps(self) -> dict[str, int]:
        """The highest step present of each metric."""

    def write(self, metrics: list[Metric]) -> None:
        """Store all of these or raise."""


class MetricLog:
    """Buffers metrics for a sink; without one (workers other than the first) it drops them."""

    RETRY_S = 5.0

    def __init__(self, sink: Sink | None) -> None:
        self._sink = sink
        self._pending: list[Metric] = []
        self._last_steps: dict[str, int] | None = None
        self._error = ""
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, step: int, values: dict[str, float]) -> None:
        """Queue the metrics of a step."""
        now = int(time.time() * 1000)
        self._queue([Metric(name, value, step, now) for name, value in values.items()])

    def pending(self) -> list[Any]:
        """Metrics not yet sent, as plain values."""
        with self._changed:
            return [list(astuple(metric)) for metric in self._pending]

    def restore(self, pending: list[Any]) -> None:
        """Queue what :meth:`pending` returned in an earlier process."""
        self._queue([Metric(*values) for values in pending])

    def flush(self, timeout_s: float = 60.0) -> None:
        """Wait until everything is sent.

        Raises:
            UserError: the sink did not take it in time.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._pending and time.monotonic() < deadline:
                self._changed.wait(0.5)
            if self._pending:
                raise UserError(
                    f"{len(self._pending)} metrics could not be sent ({self._error or 'no answer'}); the last "
                    "checkpoint carries them: submit the run again under the same name once the tracker answers"
                )

    def close(self) -> None:
        """Send what is left, in one try, and stop sending."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=self.RETRY_S)

    def _queue(self, metrics: list[Metric]) -> None:
        if self._sink is None or not metrics:
            return
        with self._changed:
            self._pending += metrics
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_all, name="metrics", daemon=True)
            self._thread.start()

    def _send_all(self) -> None:
        while True:
            with self._changed:
                while not self._pending and not self._closed:
                    self._changed.wait()
                if not self._pending:
                    return
                batch = list(self._pending[:500])
            try:
                self._send(batch)
            except Exception as error:  # whatever the sink's client raises, training goes on
                with self._changed:
                    self._error = one_line(error)[:300]
                    # Not woken by new metrics: asking a dead sink at each of them would slow training down.
                    if self._changed.wait_for(lambda: self._closed, self.RETRY_S):
                        return
                continue
            with self._changed:
                del self._pending[: len(batch)]
                self._changed.notify_all()

    def _send(self, batch: list[Metric]) -> None:
        assert self._sink is not None
        if self._last_steps is None:
            self._last_steps = self._sink.last_steps()
        new = [metric for metric in batch if metric.step > self._last_steps.get(metric.name, -1)]
        if not new:
            return
        try:
            self._sink.write(new)
        except Exception:
            # It may have been stored and only the answer lost: ask again before the next try.
            self._last_steps = None
            raise
        self._last_steps |= {metric.name: metric.step for metric in new}


def open_file_sink(place: str) -> Sink:
    """A file of JSON lines, on this machine or on S3."""
    target = parse_place(place)
    return JsonlSink(target) if isinstance(target, Path) else S3JsonlSink(target)


class JsonlSink:
    """One JSON object per line in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def last_steps(self) -> dict[str, int]:
        if not self._path.exists():
            return {}
        content = self._path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if complete != content:
            write_whole(self._path, complete)
        return _last_steps(complete, self._path)

    def write(self, metrics: list[Metric]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(_lines(metrics))


class S3JsonlSink:
    """The same as an object, which S3 can only replace as a whole: for runs without an MLflow server."""

    def __init__(self, uri: S3Uri) -> None:
        self._uri = uri
        self._text = ""

    def last_steps(self) -> dict[str, int]:
        content = s3.read(self._uri) or b""
        steps = _last_steps(content, self._uri)
        self._text = content.decode()
        return steps

    def write(self, metrics: list[Metric]) -> None:
        text = self._text + _lines(metrics)
        s3.write(self._uri, text.encode())
        self._text = text


def _lines(metrics: list[Metric]) -> str:
    return "".join(json.dumps(vars(metric)) + "\n" for metric in metrics)


def _last_steps(content: bytes, where: Place) -> dict[str, int]:
    steps: dict[str, int] = {}
    mend = "remove that line: what it held is lost, the metrics after it are kept"
    for name, step in parsed_lines(content, lambda metric: (str(metric["name"]), int(metric["step"])), where, mend):
        steps[name] = max(step, steps.get(name, -1))
    return steps
