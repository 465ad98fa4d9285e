"""Archives from elsewhere, unpacked as if they were hostile.

A member's name never becomes a path: the caller maps the names it knows to places of its own. An
archive with a name that leads out of it, a link or a device is refused whole, before a byte is
written, and so is one that holds more than it should.
"""

from __future__ import annotations

import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from pipeline.errors import UserError, one_line

Place = Callable[[str], Path | None]
_CHUNK_BYTES = 1 << 20
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Limits:
    """What an archive may hold.

    Attributes:
        num_bytes: of all members together, unpacked.
        files: members of any kind.
    """

    num_bytes: int
    files: int = 20_000


@dataclass(frozen=True)
class _Member:
    name: str
    num_bytes: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, place: Place, limits: Limits, report: Callable[[int, int], None]) -> int:
    """Write an archive's wanted members; returns how many.

    Args:
        archive: ``.zip``, or plain ``.tar``.
        place: where a member goes, None to leave it out.
        limits: what is too much.
        report: told the bytes written and the bytes there are.

    Raises:
        UserError: the archive is damaged, unsafe or too large; what was written so far is the caller's to remove.
    """
    written = 0
    with _opened(archive) as members:
        found = _checked(members, archive, limits)
        wanted = [(member, path) for member in found if (path := place(member.name)) is not None]
        total = sum(member.num_bytes for member, _ in wanted)
        for member, path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, path.open("xb") as target:
                while chunk := source.read(_CHUNK_BYTES):
                    written += len(chunk)
                    if written > limits.num_bytes:  # whatever the headers said
                        raise UserError(_too_large(archive, limits))
                    target.write(chunk)
                    report(written, total)
    return len(wanted)


@contextmanager
def _opened(archive: Path) -> Iterator[Iterator[_Member]]:
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as file:
                yield _zip_members(file)
        else:
            with tarfile.open(archive, "r:") as tar:
                yield _tar_members(tar)
    except FileExistsError as error:
        raise UserError(f"the archive {archive} holds {Path(error.filename).name} twice; it was not unpacked") from None
    except _DAMAGED as error:
        raise UserError(
            f"{archive} is not a readable archive ({one_line(error)[:200]}); remove it, and run again"
        ) from None


def _zip_members(file: zipfile.ZipFile) -> Iterator[_Member]:
    for info in file.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(_unsafe(file.filename, info.filename, "is a link or a device"))
        _check_name(file.filename, info.orig_filename)
        if not info.is_dir():
            yield _Member(info.filename, info.file_size, lambda info=info: file.open(info))  # type: ignore[misc]


def _tar_members(tar: tarfile.TarFile) -> Iterator[_Member]:
    for info in tar:
        if not (info.isreg() or info.isdir()) or info.issparse():
            raise UserError(_unsafe(str(tar.name), info.name, "is a link, a device or a sparse file"))
        _check_name(str(tar.name), info.name)
        if info.isreg():
            yield _Member(info.name, info.size, lambda info=info: _content(tar, info))  # type: ignore[misc]


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(info)
    assert content is not None  # None is what links and folders give
    return content


def _checked(members: Iterator[_Member], archive: Path, limits: Limits) -> list[_Member]:
    found: list[_Member] = []
    num_bytes = 0
    for member in members:
        found.append(member)
        num_bytes += member.num_bytes
        if num_bytes > limits.num_bytes or len(found) > limits.files:
            raise UserError(_too_large(archive, limits))
    return found


def _check_name(archive: str | None, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or re.search(r"[\\\x00]|^[A-Za-z]:", name):
        raise UserError(_unsafe(archive, name, "leads out of it"))


def _unsafe(archive: str | None, name: str, fault: str) -> str:
    return f"the archive {archive} is not safe: {name!r} in it {fault}; nothing was unpacked"


def _too_large(archive: Path, limits: Limits) -> str:
    return (
        f"the archive {archive} holds more than the {limits.num_bytes / 1e6:.0f} MB and {limits.files} files that are "
        "expected of it; it was not unpacked"
    )
