"""Files that appear complete or not at all, and the folder of those that are kept between runs."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

PARTIAL_PREFIX = ".anysr-"


def cache_root() -> Path:
    """Where files are kept between runs: ``$ANYSR_CACHE``, ``$XDG_CACHE_HOME/anysr``, or ``~/.cache/anysr``."""
    if chosen := os.environ.get("ANYSR_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "anysr"


def is_same_file(a: Path, b: Path) -> bool:
    """Whether both are there and the same file, by whatever names."""
    try:
        return a.samefile(b)
    except OSError:
        return False


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one piece: a reader, or a crash, sees the old content or the new.

    A link at ``path`` is replaced, not followed. The name of the file in between is short, for
    names of any length, and new, so that nobody can lay a link there.
    """
    partial = path.parent / f"{PARTIAL_PREFIX}{secrets.token_hex(8)}.partial"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(partial, flags, 0o666), "wb") as file:
            file.write(data)
        partial.replace(path)
    except OSError as error:  # of the name that the user knows
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    finally:
        partial.unlink(missing_ok=True)
