"""The progress display: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from pipeline.train.context import Progress


class Display:
    """Shows progress events on a stream."""

    def __init__(self, stream: TextIO, total_steps: int) -> None:
        self._stream = stream
        console = Console(file=stream)
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._bar = Bar(*columns, console=console) if console.is_terminal else None
        self._task = None if self._bar is None else self._bar.add_task("", total=total_steps)

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, event: Progress | str) -> None:
        """Show a line of progress or a remark."""
        if self._bar is None or self._task is None:
            print(event if isinstance(event, str) else event.line(), file=self._stream, flush=True)
        elif isinstance(event, str):
            self._bar.console.print(event, highlight=False)
        else:
            _, _, rest = event.line().partition("  ")
            self._bar.update(self._task, completed=event.step, description=rest)
