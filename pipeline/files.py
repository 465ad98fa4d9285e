"""Small files that appear complete or not at all, digests, and a folder that one process at a time works in."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from anysr.files import write_whole
from pipeline.errors import UserError

T = TypeVar("T")


def write_text(path: Path, text: str) -> None:
    """Write a file in one piece: a reader, or a crash, sees the old content or the new."""
    write_whole(path, text.encode())


def parsed_lines(content: bytes, parse: Callable[[Any], T], where: object, mend: str) -> list[T]:
    """What ``parse`` makes of each line of JSON; a last line that was cut short is left out.

    Raises:
        UserError: another line is damaged; ``where`` and ``mend`` are told.
    """
    found = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            found.append(parse(json.loads(line)))
        except (ValueError, TypeError, KeyError):
            raise UserError(f"line {number} of {where} is damaged; {mend}") from None
    return found


def sha256(path: Path) -> str:
    """Digest of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Keep other processes of this machine out of a folder.

    Raises:
        UserError: another process holds it, or nothing can be written there.
    """
    path = folder / ".lock"
    try:
        lock = path.open("w")
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}), which keeps other processes out of {what}; make its folder "
            "writable, or choose another"
        ) from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{what} is being worked on by another process; wait for it, or choose another name"
            ) from None
        yield
