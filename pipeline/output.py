"""What a long piece of work prints, where its readers may go before it ends: a closed terminal, ``| head``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast


@contextmanager
def outlasting_readers() -> Iterator[None]:
    """While the block runs, what nobody can read any more is lost, instead of ending the work."""
    with redirect_stdout(_outlasting(sys.stdout)), redirect_stderr(_outlasting(sys.stderr)):
        yield


def _outlasting(stream: TextIO) -> TextIO:
    return cast(TextIO, _Outlasting(stream))


class _Outlasting:
    """A text stream that writes to nowhere once it cannot be written to."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As a stream's."""
        try:
            return self._stream.write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """As a stream's."""
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        """What the stream still holds, and whatever is written to its descriptor otherwise, is lost too."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
