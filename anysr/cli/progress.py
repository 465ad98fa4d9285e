"""How far the work is, on stderr: a line that renews itself on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time

from anysr.amounts import show_seconds

_SILENT_S = 2.0
_EVERY_S = {True: 0.5, False: 15.0}


class Progress:
    """Counts images, and shares of the one at work; estimates what is left from the rate so far."""

    def __init__(self, total: int, ago_s: float = 0.0) -> None:
        """Of so many images, begun so long ago."""
        self.total, self.done = total, 0
        self._shown = time.monotonic()
        self._started = self._shown - ago_s
        self._is_terminal = sys.stderr.isatty()
        self._has_line = False

    def tell(self, share: float) -> None:
        """Called with the share of the current image that is done; shows it if it is time."""
        now = time.monotonic()
        if now - self._started < _SILENT_S or now - self._shown < _EVERY_S[self._is_terminal]:
            return
        self._shown = now
        text = f"[{self.done + 1}/{self.total}] {share:.0%} of this image, {self._left(self.done + share, now)}"
        if self._is_terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            self._has_line = True
        else:
            print(text, file=sys.stderr, flush=True)

    def finish_one(self) -> str:
        """Count an image; its number and what is left, for the line about it."""
        self.done += 1
        if self._has_line:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._has_line = False
        if self.total == 1:
            return ""
        left = f", {self._left(self.done, time.monotonic())}" if self.done < self.total else ""
        return f"[{self.done}/{self.total}{left}] "

    def _left(self, done: float, now: float) -> str:
        if done <= 0:
            return "time left unknown"
        return f"{show_seconds(max(0.0, (now - self._started) / done * (self.total - done)))} left"
