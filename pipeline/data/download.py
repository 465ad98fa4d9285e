"""One file over HTTP, whatever the network does: resumed, retried with growing waits, checked at the end.

The bytes that came so far lie in ``FILE.part``, and beside them what the server called that version of
the file, so that a later try, in this process or another, asks for the rest of the same version only.
(requests gives sessions, proxies and certificates. pooch, the usual library for data files, starts
each try from nothing, which a file of 3.5 GB on a bad line never survives.)
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import requests
import urllib3

from pipeline.errors import UserError, one_line
from pipeline.files import sha256, write_text

Report = Callable[[int, int | None], None]
_TEMPORARY = {408, 425, 429, 500, 502, 503, 504}
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Patience:
    """How long to go on.

    Attributes:
        tries: in a row that brought nothing new.
        first_wait_s: after the first failure; each further one waits twice as long.
        most_wait_s: longest wait, also where the server asks for more.
        timeout_s: silence after which a connection counts as dead.
    """

    tries: int = 6
    first_wait_s: float = 0.5
    most_wait_s: float = 60.0
    timeout_s: float = 30.0


@dataclass(frozen=True)
class Remote:
    """A file to fetch.

    Attributes:
        url: its address.
        num_bytes: its size, None if unknown.
        sha256: its digest, None if unknown.
    """

    url: str
    num_bytes: int | None = None
    sha256: str | None = None


class _TemporaryError(Exception):
    """Worth another try, after as many seconds as the server named."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def fetch(
    remote: Remote, target: Path, report: Report, say: Callable[[str], None], patience: Patience = Patience()
) -> str:
    """Download a file to ``target``, which appears complete and checked or not at all; returns its SHA-256.

    Args:
        remote: what is expected.
        target: where it goes.
        report: told the bytes there are and, where known, the bytes there will be.
        say: told about interruptions.
        patience: when to give up.

    Raises:
        UserError: the server refuses, stays away, or has another file; the disk is full.
    """
    part = _part(target)
    most, failures = _size(part), 0
    with requests.Session() as session:
        while True:
            try:
                _receive(session, remote, part, report, patience.timeout_s)
                break
            except _TemporaryError as error:
                have = _size(part)
                failures, most = (0, have) if have > most else (failures + 1, most)
                if failures >= patience.tries:
                    raise UserError(
                        f"cannot fetch {remote.url}: {error}, {failures} times without a further byte; "
                        f"{have / 1e6:.1f} MB are kept: run the command again to go on, or give another --mirror"
                    ) from None
                wait_s = max(error.wait_s, patience.first_wait_s * 2.0 ** max(0, failures - 1))
                say(
                    f"{target.name}: {error} at {have / 1e6:.1f} MB; again in {min(wait_s, patience.most_wait_s):.1f} s"
                )
                time.sleep(min(wait_s, patience.most_wait_s))
    return _accept(remote, part, target)


def bytes_so_far(target: Path) -> int:
    """How much of a file has come."""
    return _size(target) or _size(_part(target))


def _receive(session: requests.Session, remote: Remote, part: Path, report: Report, timeout_s: float) -> None:
    """One try: asks for what is missing and appends it."""
    have, version = _size(part), _version(part)
    if remote.num_bytes is not None and have == remote.num_bytes:
        return
    # Compressed on the way, a file's bytes could not be counted.
    headers = {"Accept-Encoding": "identity"}
    if have and (version or remote.sha256):
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": version} if version else {})
    try:
        with session.get(remote.url, headers=headers, stream=True, timeout=timeout_s) as response:
            if _is_complete(response, have):
                return
            start, total = _answer(response, remote, part)
            _note_version(part, response)
            _append(response, part, start, total or remote.num_bytes, report)
    except requests.exceptions.SSLError as error:
        raise UserError(f"cannot trust the server of {remote.url} ({one_line(error)[:200]})") from None
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
        raise UserError(f"{remote.url} is not an address to fetch from; --mirror takes http:// or https://") from None
    except requests.exceptions.Timeout:
        raise _TemporaryError(f"no answer for {timeout_s:g} s") from None
    except requests.RequestException as error:
        raise _TemporaryError(_cause(error)) from None
    except urllib3.exceptions.ReadTimeoutError:
        raise _TemporaryError(f"silence for {timeout_s:g} s") from None
    except urllib3.exceptions.HTTPError:
        raise _TemporaryError("the connection was cut") from None


def _is_complete(response: requests.Response, have: int) -> bool:
    """Whether the server says that there is nothing after what has come, of a file whose size nobody knew."""
    beyond = response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    return beyond and response.headers.get("Content-Range") == f"bytes */{have}"


def _answer(response: requests.Response, remote: Remote, part: Path) -> tuple[int, int | None]:
    """Where the bytes that follow belong, and how many there are in all, if the server says so."""
    status = response.status_code
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        part.unlink(missing_ok=True)
        raise _TemporaryError("the server has less than what is here, starting over")
    if status in _TEMPORARY:
        wait = response.headers.get("Retry-After", "")
        raise _TemporaryError(f"the server answers {status} {response.reason}", float(wait) if wait.isdigit() else 0.0)
    if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        raise UserError(f"{remote.url} answers {status} {response.reason}; give another --mirror")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise UserError(f"{remote.url} answers with a web page, not with the file; give another --mirror")
    start, total = 0, _number(response.headers.get("Content-Length"))
    if status == HTTPStatus.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        start, total = (int(found[1]), _number(found[2])) if found else (-1, None)
        if start != _size(part):
            part.unlink(missing_ok=True)
            raise _TemporaryError("the server sent another part than it was asked for, starting over")
    if None not in (total, remote.num_bytes) and total != remote.num_bytes:
        raise UserError(
            f"{remote.url} is another file than expected: {total} bytes, not {remote.num_bytes}; give another --mirror"
        )
    return start, total


def _append(response: requests.Response, part: Path, start: int, total: int | None, report: Report) -> None:
    have = start
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
            try:
                file.write(chunk)
            except OSError as error:
                raise UserError(
                    f"cannot write {part} ({error.strerror}); {have / 1e6:.1f} MB are kept: free some space and run "
                    "the command again"
                ) from None
            have += len(chunk)
            if total is not None and have > total:
                raise UserError(f"{response.url} sends more than the {total} bytes of the file; give another --mirror")
            report(have, total)
    if total is not None and have < total:
        raise _TemporaryError("the connection ended early")


def _accept(remote: Remote, part: Path, target: Path) -> str:
    digest = sha256(part)
    if remote.sha256 not in (None, digest):
        size = _size(part)
        _forget(part)
        raise UserError(
            f"{remote.url} is another file than expected: {size} bytes with SHA-256 {digest}, not {remote.sha256}; it "
            "was removed: try again, or give another --mirror"
        )
    part.replace(target)
    _forget(part)
    return digest


def _cause(error: requests.RequestException) -> str:
    """The innermost reason of a failed connection, in a few words."""
    inner: BaseException = error
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__ or inner
    return f"no connection ({one_line(inner)[:120]})"


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _note_version(part: Path, response: requests.Response) -> None:
    """What If-Range needs: a strong entity tag, else the date."""
    tag = response.headers.get("ETag", "")
    version = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
    write_text(_note(part), json.dumps({"version": version}))


def _version(part: Path) -> str:
    try:
        return str(json.loads(_note(part).read_text())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
