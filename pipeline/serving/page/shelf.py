"""Pictures that browsers are about to fetch: few, for a short time."""

from __future__ import annotations

import secrets
import shutil
import time
from collections import OrderedDict
from pathlib import Path


class Shelf:
    """A folder that keeps the newest files up to so many bytes and seconds; names cannot be guessed."""

    def __init__(self, folder: Path, max_bytes: int, max_age_s: float) -> None:
        self._folder, self._max_bytes, self._max_age_s = folder, max_bytes, max_age_s
        self._kept: OrderedDict[Path, tuple[float, int]] = OrderedDict()

    def put(self, files: dict[str, bytes]) -> list[Path]:
        """Keep files of one picture; they go together."""
        folder = self._folder / secrets.token_urlsafe(16)
        folder.mkdir(parents=True)
        paths = [folder / name for name in files]
        for path, data in zip(paths, files.values(), strict=True):
            path.write_bytes(data)
        self._kept[folder] = (time.monotonic(), sum(map(len, files.values())))
        self._clear()
        return paths

    def _clear(self) -> None:
        oldest = time.monotonic() - self._max_age_s
        total = sum(size for _, size in self._kept.values())
        for folder, (put, size) in list(self._kept.items())[:-1]:
            if put < oldest or total > self._max_bytes:
                shutil.rmtree(folder, ignore_errors=True)
                del self._kept[folder]
                total -= size
