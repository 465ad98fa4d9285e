"""The folder of decoded photos: where it is, who works in it, and what of it nobody needs any more."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.storage.cache import cache_root

INDEX = "index.json"
_PARTIAL, _LOCK = ".partial", ".lock"


def cache_folder(configured: Path | None) -> Path:
    """The folder for decoded photos, made if need be."""
    root = cache_root(configured) / "photos"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the cache folder {root} ({error.strerror}); set data.cache or ANYSR_CACHE"
        ) from error
    return root


@contextmanager
def locked(entry: Path, wait: bool = True) -> Iterator[Path]:
    """Keep other processes of this machine from an entry; gives the folder to fill it in.

    Raises:
        BlockingIOError: another one works in it, and ``wait`` is false.
    """
    with entry.with_suffix(_LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield entry.with_suffix(_PARTIAL)


def note_use(entry: Path) -> None:
    """Remember that an entry is needed today."""
    with suppress(OSError):  # a cache that is only readable serves as well
        os.utime(entry / INDEX)


@dataclass(frozen=True)
class Pruned:
    """What was removed: ``entries`` of ``num_bytes`` together; ``kept`` are left."""

    entries: int
    num_bytes: int
    kept: int


def prune(root: Path, unused_days: float) -> Pruned:
    """Remove decoded photos that no run has opened for some days, and what was left half decoded.

    A process that has an entry open keeps it until it ends: the system removes files only then.
    """
    entries = num_bytes = 0
    found = {path.with_suffix("") for path in root.iterdir() if path.is_dir()}
    for entry in sorted(found):
        with suppress(BlockingIOError), locked(entry, wait=False) as partial:
            for folder in (partial, entry):
                if folder.is_dir() and _age_days(folder) >= unused_days:
                    entries, num_bytes = entries + 1, num_bytes + _bytes(folder)
                    shutil.rmtree(folder, ignore_errors=True)
    return Pruned(entries, num_bytes, sum(path.is_dir() for path in root.iterdir()))


def _age_days(folder: Path) -> float:
    index = folder / INDEX
    return (time.time() - (index if index.is_file() else folder).stat().st_mtime) / 86400


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
