"""Who works below an S3 prefix, where no lock can be held: an object that its owner signs again and again.

It appears and changes by conditional writes alone, so of two that want it one gets it. How long an owner has been
silent is told by S3's own clock. Where S3 cannot write conditionally, two that start in the same second get it both.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import write_text
from pipeline.storage import s3
from pipeline.storage.places import S3Uri

OWNER_FILE = "owner.json"
_SIGN_EVERY_S, _LOOK_EVERY_S = 20.0, 2.0
# Beyond the time that an owner itself waits for S3 to come back.
_GRACE_S = 120.0
_RELEASE_S = 5.0


@dataclass(frozen=True)
class _Owner:
    """What the object holds.

    Attributes:
        token: of the folder of its machine that it works in.
        host: that machine.
        pid: its process there.
        silent_s: how long after its last sign of life it may be taken for dead.
        signed: when it signed, in seconds since 1970 by its own clock.
    """

    token: str
    host: str
    pid: int
    silent_s: float
    signed: float = 0.0


@contextmanager
def owned(place: S3Uri, local: Path, what: str) -> Iterator[None]:
    """Keep other machines out of a place on S3 while the block runs; the process ends where one has taken over.

    ``local`` is the folder that this machine works in for it, which the caller has locked: an owner that worked in
    the same one is evidently dead. Another is waited for until it signs again or has been silent for long.

    Raises:
        UserError: another machine is at work there.
    """
    uri = place / OWNER_FILE
    mine = _Owner(_token(local), socket.gethostname(), os.getpid(), s3.retry_budget_s() + _GRACE_S)
    _claim(uri, mine, what)
    done = threading.Event()
    thread = threading.Thread(target=_keep_signing, args=(uri, mine, what, done), name="owner", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(_RELEASE_S)  # S3 may be away


def _token(local: Path) -> str:
    path = local / ".owner"
    if not path.is_file():
        write_text(path, secrets.token_hex(16))
    return path.read_text()


def _claim(uri: S3Uri, mine: _Owner, what: str) -> None:
    waited_for: s3.Version | None = None
    while True:
        found = s3.read_version(uri)
        owner = _parsed(found)
        who = f"process {owner.pid} on {owner.host}"
        if found is None or owner.token == mine.token or found.age_s > owner.silent_s:
            if s3.replace(uri, _content(mine), found):
                return
        elif waited_for is None:
            waited_for = found
            print(f"{what} was being worked on by {who} {found.age_s:.0f} s ago; waiting for its next sign of life, or "
                  f"until it has been silent for {owner.silent_s:.0f} s", flush=True)  # fmt: skip
        elif waited_for.etag != found.etag:
            raise UserError(f"{what} is being worked on by {who}; wait for it, or choose another name")
        time.sleep(_LOOK_EVERY_S)


def _keep_signing(uri: S3Uri, mine: _Owner, what: str, done: threading.Event) -> None:
    while not done.wait(_SIGN_EVERY_S):
        # Whatever S3 does, by itself it does not end a run.
        with suppress(Exception):
            found = s3.read_version(uri)
            if not _is_mine(found, mine):
                _end(what, found)
                return
            s3.replace(uri, _content(mine), found)
    with suppress(Exception):
        if _is_mine(s3.read_version(uri), mine):
            s3.delete(uri)


def _is_mine(found: s3.Version | None, mine: _Owner) -> bool:
    return _parsed(found).token == mine.token


def _end(what: str, found: s3.Version | None) -> None:
    """End at once, as if killed: to save, or to close the tracked run, would disturb the new owner."""
    owner = _parsed(found)
    why = f"process {owner.pid} on {owner.host} has taken it over" if found else f"its {OWNER_FILE} was removed"
    print(f"error: {what} is given up here, and nothing more is saved: {why}", file=sys.stderr, flush=True)
    os._exit(2)


def _content(owner: _Owner) -> bytes:
    return json.dumps({**asdict(owner), "signed": time.time()}).encode()


def _parsed(found: s3.Version | None) -> _Owner:
    """One that nobody is where there is no object, or none of this kind."""
    try:
        return _Owner(**json.loads(found.content if found else b"{}"))
    except (ValueError, TypeError):
        return _Owner("", "an unknown host", 0, s3.retry_budget_s() + _GRACE_S)
