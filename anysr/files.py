"""Files that appear complete or not at all, and the folder of those that are kept between runs."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL_PREFIX = ".anysr-"


def cache_root() -> Path:
    """Where files are kept between runs: ``$ANYSR_CACHE``, ``$XDG_CACHE_HOME/anysr``, or ``~/.cache/anysr``.

    Raises:
        ValueError: the first is the address of another place.
    """
    if chosen := os.environ.get("ANYSR_CACHE"):
        if "://" in chosen:
            raise ValueError(f"ANYSR_CACHE must be a folder of this machine, got {chosen}")
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "anysr"


def is_same_file(a: Path, b: Path) -> bool:
    """Whether both are there and the same file, by whatever names."""
    try:
        return a.samefile(b)
    except OSError:
        return False


@contextmanager
def whole_file(path: Path, suffix: str = ".partial") -> Iterator[Path]:
    """A file to fill while the block runs, which then takes the place of ``path``; if the block fails, it is removed.

    A link at ``path`` is replaced, not followed. The name of the file in between is short, for
    names of any length, and new, so that nobody can lay a link there.

    Args:
        path: of the file.
        suffix: of the name in between, for writers that insist on theirs.

    Raises:
        OSError: the file cannot be written; names ``path``.
    """
    partial = path.parent / f"{PARTIAL_PREFIX}{secrets.token_hex(8)}{suffix}"
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, os.fspath(partial)):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None  # of the name that the user knows
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one piece: a reader, or a crash, sees the old content or the new; see :func:`whole_file`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with whole_file(path) as partial, os.fdopen(os.open(partial, flags, 0o666), "wb") as file:
        file.write(data)
