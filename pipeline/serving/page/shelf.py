"""Pictures that browsers are about to fetch: few, for a short time."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections import OrderedDict
from pathlib import Path

KEPT_S = 900  # uploads and results


class Shelf:
    """A folder that keeps files up to so many bytes and seconds, the newest ones first; names cannot be guessed."""

    def __init__(self, folder: Path, max_bytes: int, max_age_s: float) -> None:
        self._folder, self._max_bytes, self._max_age_s = folder, max_bytes, max_age_s
        self._kept: OrderedDict[Path, tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._next_look: threading.Timer | None = None

    def put(self, files: dict[str, bytes]) -> list[Path]:
        """Keep files of one picture; they go together."""
        folder = self._folder / secrets.token_urlsafe(16)
        folder.mkdir(parents=True)
        paths = [folder / name for name in files]
        for path, data in zip(paths, files.values(), strict=True):
            path.write_bytes(data)
        with self._lock:
            self._kept[folder] = (time.monotonic(), sum(map(len, files.values())))
            self._clear()
            if self._next_look is None:
                self._look_later()
        return paths

    def _look_later(self) -> None:
        """When the oldest picture is too old, also where nobody puts another one."""
        put, _ = next(iter(self._kept.values()))
        self._next_look = threading.Timer(max(0.0, put + self._max_age_s - time.monotonic()), self._look)
        self._next_look.daemon = True
        self._next_look.start()

    def _look(self) -> None:
        with self._lock:
            self._clear()
            self._next_look = None
            if self._kept:
                self._look_later()

    def _clear(self) -> None:
        now = time.monotonic()
        total = sum(size for _, size in self._kept.values())
        for folder, (put, size) in list(self._kept.items()):
            is_newest = folder == next(reversed(self._kept))
            if now - put >= self._max_age_s or (total > self._max_bytes and not is_newest):
                shutil.rmtree(folder, ignore_errors=True)
                del self._kept[folder]
                total -= size
