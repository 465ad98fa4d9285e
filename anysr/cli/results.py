"""Results in a folder, and what each was made from, so that a command that is started again repeats nothing."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from anysr.cli import shown
from anysr.files import write_whole
from anysr.imaging import Format
from anysr.upscaling import FileOptions, Request

_RECORDS = ".anysr"


def mark_of(model_digest: str, request: Request, spec: Format, options: FileOptions, source: str) -> str:
    """A digest of all that the pixels and the bytes of a result depend on.

    Tiles and the limit on memory are left out: they change neither.

    Args:
        model_digest: SHA-256 of the model's file.
        request: what is wanted.
        spec: of the result.
        options: of reading and writing.
        source: changes whenever the image may.
    """
    asked = asdict(request)
    del asked["tile"], asked["limits"]["memory"]
    # What is not given is 95 but for a WebP, which may then be lossless.
    quality = 95 if options.quality is None and spec.name != "WEBP" else options.quality
    made_from = [model_digest, asked, spec.name, quality, source]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def stamp_of(file: Path) -> str:
    """Changes whenever a file may have; raises OSError."""
    found = file.stat()
    return f"{found.st_size} bytes of {found.st_mtime_ns}"


def foreign(target: object) -> str:
    """What is said of a place of a result that holds something else."""
    return f"{shown(target)} exists without a record that anysr wrote it; give another -o, or --overwrite to replace it"


class ResultFolder:
    """A folder for results, and nothing is written outside it.

    What a result was made from is kept in a file of its own in the folder ``.anysr``: many processes and
    machines may work on one folder at once.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def has(self, target: Path, mark: str) -> bool:
        """Whether the complete result with this mark is there, as it was written."""
        try:
            record = json.loads(self._record_of(target).read_bytes())
            return bool(record["mark"] == mark) and target.is_file() and record["sha256"] == _digest(target)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def check_replaces_nothing(self, target: Path) -> None:
        """Raise ValueError where something is there that is no result of this folder's, whatever it was made from."""
        if os.path.lexists(target) and not self._record_of(target).exists():
            raise ValueError(foreign(target))

    def write(self, target: Path, data: bytes, mark: str | None) -> None:
        """Write a result in one piece; without a mark no record is made of it.

        Raises:
            ValueError: a link leads out of the folder.
            OSError: it cannot be written.
        """
        self._make(target.parent)
        if mark is not None:
            # Before the result: a process that is killed between the two leaves a record of what is not there.
            record = {"name": self._name_of(target), "mark": mark, "sha256": hashlib.sha256(data).hexdigest()}
            file = self._record_of(target)
            self._make(file.parent)
            write_whole(file, json.dumps(record).encode())
        write_whole(target, data)

    def _record_of(self, target: Path) -> Path:
        name = self._name_of(target).encode("utf-8", "surrogatepass")
        return self._root / _RECORDS / f"{hashlib.sha256(name).hexdigest()[:32]}.json"

    def _name_of(self, target: Path) -> str:
        return target.relative_to(self._root).as_posix()

    def _make(self, folder: Path) -> None:
        if not folder.resolve().is_relative_to(self._root.resolve()):
            raise ValueError(f"{shown(folder)} is a link out of {shown(self._root)}; nothing is written there")
        folder.mkdir(parents=True, exist_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
