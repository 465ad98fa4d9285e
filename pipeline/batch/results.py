"""Where results go: a folder, or a prefix on S3; and which are there already."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from anysr.cli import shown
from anysr.cli.results import ResultFolder, foreign
from pipeline.errors import UserError
from pipeline.storage import s3
from pipeline.storage.places import Place, S3Uri

_MARK = "anysr-mark"
_THREADS = 16


class Results:
    """Results and what each was made from: see :class:`anysr.cli.results.ResultFolder`.

    On S3 the mark lies in the object's own metadata: one write stores both.
    """

    def __init__(self, out: Place) -> None:
        self._out = out

    def prepare(self) -> None:
        """Show that results can be written.

        Raises:
            UserError, OSError: they cannot.
        """
        if isinstance(self._out, S3Uri):
            probe = self._out / f".anysr-probe-{os.getpid()}"
            s3.write(probe, b"x")
            s3.delete(probe)
            return
        try:
            self._out.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UserError(f"-o {shown(self._out)} exists but is not a folder; name a folder") from None

    def has(self, target: Place, mark: str) -> bool:
        """Whether the complete result with this mark is there, as it was written."""
        if isinstance(target, S3Uri):
            return (s3.metadata(target) or {}).get(_MARK) == mark
        return self._folder().has(target, mark)

    def have(self, targets: Sequence[Place], marks: Sequence[str]) -> list[bool]:
        """The same of many."""
        there = {one.uri for one in s3.list_objects(self._out)} if isinstance(self._out, S3Uri) else None

        def check(target: Place, mark: str) -> bool:
            return (there is None or target in there) and self.has(target, mark)

        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(check, targets, marks))

    def check_replaces_nothing(self, target: Place) -> None:
        """Raise ValueError or UserError where something is there that is no result, whatever it was made from."""
        if not isinstance(target, S3Uri):
            self._folder().check_replaces_nothing(target)
            return
        found = s3.metadata(target)
        if found is not None and _MARK not in found:
            raise UserError(foreign(target))

    def write(self, target: Place, data: bytes, mark: str) -> None:
        """Write a result in one piece.

        Raises:
            UserError, ValueError, OSError: it cannot be written.
        """
        if isinstance(target, S3Uri):
            s3.write(target, data, {_MARK: mark})
        else:
            self._folder().write(target, data, mark)

    def _folder(self) -> ResultFolder:
        assert isinstance(self._out, Path)
        return ResultFolder(self._out)
