"""This machine's copies of what lies on S3: fetched once, verified, under a size limit.

Many processes of a machine may ask at once: one fetches, the others wait. Copies that nobody uses
make room for new ones, the longest unused first.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO

from anysr.files import cache_root as default_root
from pipeline.errors import UserError
from pipeline.files import write_text
from pipeline.storage import s3
from pipeline.storage.places import Place, S3Uri, parse_place

_FILES, _PARTIALS, _INDEX, _SIZE = "files", "partials", "index.json", "bytes"
_THREADS = 8
_SHOW_EVERY_S = 5.0
_DEFAULT_LIMIT_GB = 100.0
_NO_NAME = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# Copies that this process uses, whose locks keep others from removing them.
_in_use: dict[Path, IO[str]] = {}


def local_copy(place: str | Place, limit_gb: float | None = None, cache: Path | None = None) -> Path:
    """A file of this machine with what lies at ``place``; itself, if it is one.

    Args:
        place: path, ``file:`` or ``s3://bucket/key``.
        limit_gb: for all copies together; None is $ANYSR_CACHE_GB, else 100.
        cache: the folder they are kept in; see :func:`cache_root`.

    Raises:
        UserError: it is not there, does not fit under the limit, or S3 refuses or stays away.
    """
    place = parse_place(place)
    if isinstance(place, Path):
        return place.expanduser()
    found = s3.describe(place)
    if found is None:
        raise UserError(f"there is no {place}")
    return _filled(place, {place.name: found}, cache_root(cache), limit_gb) / place.name


def local_folder(place: str | Place, limit_gb: float | None = None, cache: Path | None = None) -> Path:
    """The same for a folder: all objects below ``s3://bucket/prefix``."""
    place = parse_place(place)
    if isinstance(place, Path):
        return place.expanduser()
    objects = s3.list_objects(place)
    if not objects:
        raise UserError(f"there is nothing below {place}; give the prefix that the files' keys begin with")
    skip = len(place.key) + 1 if place.key else 0
    return _filled(place, {_safe(one.uri.key[skip:], one.uri): one for one in objects}, cache_root(cache), limit_gb)


def cache_root(configured: Path | None = None) -> Path:
    """The folder of everything kept on this machine: as configured, else that of the library."""
    return configured.expanduser() if configured else default_root()


def _safe(name: str, uri: S3Uri) -> str:
    """Refuses keys that would be written elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or "\0" in name:
        raise _no_name(uri)
    return name


def _no_name(uri: S3Uri) -> UserError:
    return UserError(f"the key of {uri} cannot be the name of a file; store it under another one")


def _filled(uri: S3Uri, objects: dict[str, s3.S3Object], cache: Path, limit_gb: float | None) -> Path:
    endpoint, root = os.environ.get("AWS_ENDPOINT_URL", ""), cache / "s3"
    entry = root / hashlib.sha256(f"{endpoint} {uri}".encode()).hexdigest()[:24]
    try:
        entry.mkdir(parents=True, exist_ok=True)
        _keep(entry)
        with _lock(entry.with_suffix(".lock")):
            if not _is_current(entry, objects):
                _make_room(root, entry, uri, sum(one.size for one in objects.values()), limit_gb)
                _fetch(entry / _FILES, uri, objects)
                index = {name: [one.etag, one.size] for name, one in objects.items()}
                write_text(entry / _INDEX, json.dumps(index))
            os.utime(entry / _INDEX)
    except OSError as error:
        mend = (
            "free some space there, or set ANYSR_CACHE" if error.errno in _NO_ROOM else "see to it, or set ANYSR_CACHE"
        )
        raise UserError(f"cannot keep a copy of {uri} in {root} ({error.strerror}); {mend}") from error
    return entry / _FILES


def _is_current(entry: Path, objects: dict[str, s3.S3Object]) -> bool:
    index = entry / _INDEX
    try:
        known = json.loads(index.read_text()) if index.is_file() else None
    except ValueError:
        known = None  # damaged: made anew
    if known != {name: [one.etag, one.size] for name, one in objects.items()}:
        return False
    files = {name: entry / _FILES / name for name in known}
    return all(file.is_file() and file.stat().st_size == known[name][1] for name, file in files.items())


def _fetch(folder: Path, uri: S3Uri, objects: dict[str, s3.S3Object]) -> None:
    """Fetch what is missing or another; what an earlier, interrupted process left is verified and kept."""
    (folder.parent / _INDEX).unlink(missing_ok=True)
    for stale in [path for path in folder.rglob("*") if path.is_file()]:
        name = stale.relative_to(folder).as_posix()
        if name not in objects:
            stale.unlink()
            with suppress(OSError):
                os.removedirs(stale.parent)  # if it is empty now: there may be an object of its name
    partials = folder.parent / _PARTIALS
    partials.mkdir(exist_ok=True)
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting = {pool.submit(_fetch_one, folder / name, one, partials): one.size for name, one in objects.items()}
        try:
            show = _Progress(uri, objects.values())
            for future in as_completed(waiting):
                future.result()
                show.add(waiting[future])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    shutil.rmtree(partials)


def _fetch_one(target: Path, wanted: s3.S3Object, partials: Path) -> None:
    try:
        if target.is_file() and target.stat().st_size == wanted.size and s3.is_intact(target, wanted.uri):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(wanted.uri, target, partials)
    except OSError as error:
        if error.errno in _NO_NAME:
            raise _no_name(wanted.uri) from error
        raise


def _make_room(root: Path, entry: Path, uri: S3Uri, needed: int, limit_gb: float | None) -> None:
    limit = _limit_bytes(limit_gb)
    mend = "raise data.cache_gb or ANYSR_CACHE_GB, or give a smaller prefix"
    if needed > limit:
        raise UserError(f"{uri} has {needed / 1e9:.3g} GB, more than the cache's limit of {limit / 1e9:.3g} GB; {mend}")
    with _lock(root / ".room"):
        write_text(entry / _SIZE, str(needed))  # counts from now on, while it is being filled
        others = {path: _size_of(path) for path in root.iterdir() if (path / _SIZE).is_file()}
        for path in sorted(others, key=lambda p: (p / _SIZE).with_name(_INDEX).stat().st_mtime if _done(p) else 0):
            if sum(others.values()) <= limit:
                return
            if path != entry and _remove(path):
                del others[path]
    if sum(others.values()) > limit:
        (entry / _SIZE).unlink()
        raise UserError(f"{uri} needs {needed / 1e9:.3g} GB beside the copies in use in {root}; {mend}")


def _done(entry: Path) -> bool:
    return (entry / _INDEX).is_file()


def _size_of(entry: Path) -> int:
    """Bytes that a copy takes, or will take; those that are there where the record of it is damaged."""
    try:
        return int((entry / _SIZE).read_text())
    except ValueError:
        return sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())


def _limit_bytes(limit_gb: float | None) -> int:
    text = os.environ.get("ANYSR_CACHE_GB", str(_DEFAULT_LIMIT_GB)) if limit_gb is None else str(limit_gb)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not math.isfinite(gigabytes):
        raise UserError(f"ANYSR_CACHE_GB, or data.cache_gb, is a finite number of gigabytes, got {text!r}")
    return int(gigabytes * 1e9)


def _remove(entry: Path) -> bool:
    """Remove a copy that no process uses."""
    if entry in _in_use:
        return False
    with entry.with_suffix(".use").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        shutil.rmtree(entry)
    return True


def _keep(entry: Path) -> None:
    """Keep others from removing a copy for as long as this process lives."""
    if entry not in _in_use:
        file = entry.with_suffix(".use").open("w")
        fcntl.flock(file, fcntl.LOCK_SH)
        _in_use[entry] = file
        entry.mkdir(exist_ok=True)  # it may have been removed just before


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Progress:
    """Says on stderr how far a longer copy has got."""

    def __init__(self, uri: S3Uri, objects: Iterable[s3.S3Object]) -> None:
        sizes = [one.size for one in objects]
        self._uri, self._bytes, self._files = uri, sum(sizes), len(sizes)
        self._done = self._count = 0
        self._start = self._shown = time.monotonic()

    def add(self, size: int) -> None:
        """Count a file."""
        self._done, self._count = self._done + size, self._count + 1
        now = time.monotonic()
        if now - self._shown < _SHOW_EVERY_S:
            return
        self._shown = now
        left_s = (now - self._start) / max(1, self._done) * (self._bytes - self._done)
        done = f"{self._count}/{self._files} files, {self._done / 1e9:.2f}/{self._bytes / 1e9:.2f} GB"
        print(f"copying {self._uri}: {done}, about {left_s:.0f} s left", file=sys.stderr, flush=True)
