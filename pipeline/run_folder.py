"""A run's folder: on this machine, or on S3 with a working copy here."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import held, write_text
from pipeline.storage import s3
from pipeline.storage.cache import cache_root
from pipeline.storage.owner import owned
from pipeline.storage.places import S3Uri, parse_place
from pipeline.storage.transfer import read_text, upload

# What each kind of work leaves first in its folder.
CONFIG_FILE, SPACE_FILE = "config.yaml", "space.json"
_MARKS = {"training run": CONFIG_FILE, "search": SPACE_FILE}


class RunFolder:
    """Where a run's results go.

    Attributes:
        place: what the user knows it as.
        local: a folder of this machine, the same unless ``place`` is on S3.
    """

    def __init__(self, storage: str, name: str, cache: Path | None) -> None:
        self.place = parse_place(storage) / name
        if isinstance(self.place, S3Uri):
            endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
            mark = hashlib.sha256(f"{endpoint} {self.place}".encode()).hexdigest()[:16]
            self.local = cache_root(cache) / "runs" / f"{name}-{mark}"
        else:
            self.local = self.place

    def prepare(self, needed_bytes: int) -> None:
        """Show that the place can be written and has room.

        Raises:
            UserError: it cannot or has not.
        """
        mend = "choose another run.storage"
        try:
            self.local.mkdir(parents=True, exist_ok=True)
            probe = self.local / f".probe-{os.getpid()}"
            probe.write_bytes(b"x")
            probe.unlink()
            free = shutil.disk_usage(self.local).free
        except OSError as error:
            raise UserError(f"cannot write to run.storage {self.local} ({error.strerror}); {mend}") from error
        if isinstance(self.place, S3Uri):
            there = self.place / f".probe-{socket.gethostname()}-{os.getpid()}"
            s3.write(there, b"x")
            s3.delete(there)
        elif free < needed_bytes:
            raise UserError(
                f"run.storage {self.local} has {free / 1e6:.0f} MB free, but the checkpoints need "
                f"{needed_bytes / 1e6:.0f} MB; free some space, lower ray.keep_checkpoints, or {mend}"
            )

    @contextmanager
    def held(self, what: str) -> Iterator[None]:
        """Keep other processes, and for a place on S3 other machines, out while the block runs.

        Raises:
            UserError: another one is at work there.
        """
        with held(self.local, what), self._owned(what):
            yield

    def _owned(self, what: str) -> AbstractContextManager[None]:
        return owned(self.place, self.local, what) if isinstance(self.place, S3Uri) else nullcontext()

    def keep_to(self, kind: str) -> None:
        """Refuse a folder of another kind of work: its files and its tracked run would be taken for one's own.

        Raises:
            UserError: a search's for a "training run", or the other way round.
        """
        for other, mark in _MARKS.items():
            if other != kind and self.read(mark) is not None:
                raise UserError(f"{self.place} is the folder of a {other}; choose another run.name for this {kind}")

    def read(self, name: str) -> str | None:
        """A small file's text; None if there is none."""
        return read_text(self.place / name)

    def write(self, name: str, text: str) -> None:
        """Write a small file, here and there."""
        write_text(self.local / name, text)
        self.send(self.local / name)

    def send(self, *files: Path) -> None:
        """Bring files of the local folder to the place."""
        for file in files:
            upload(file, self.place / file.name)

    def shown(self, file: Path) -> str:
        """A file of the local folder as the user knows it."""
        return str(self.place / file.name)
