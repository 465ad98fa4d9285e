"""S3 through boto3: checksums both ways, and patience with a server that is away, slow or overloaded.

Endpoint, region and credentials come from the environment (or the machine's role) alone, as boto3
reads them: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, … Nothing here
passes them on.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import UserError, one_line
from pipeline.files import sha256
from pipeline.storage.places import S3Uri

T = TypeVar("T")

_CHUNK = 2**20
_PART = 16 * 2**20
_SHA256 = "sha256"  # in the object's own metadata: S3's ETag is no digest of larger objects
_CONNECT_S, _READ_S = 5.0, 30.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 5.0
_TRANSIENT = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests", "InternalError"}
_MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
_OVERTAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"}  # the last: it was removed meanwhile
_DAMAGED_TRIES = 3
_JITTER = random.Random()  # not the global one, which a program may seed alike in all of its processes


class DamagedError(UserError):
    """What arrived is not what was stored."""


class _ChangedError(Exception):
    """The object was replaced while it was read."""


@dataclass(frozen=True)
class S3Object:
    """What S3 knows of an object without sending it.

    Attributes:
        uri: where it is.
        size: bytes.
        etag: changes with the content.
    """

    uri: S3Uri
    size: int
    etag: str


@dataclass(frozen=True)
class Version:
    """An object as it was at one time.

    Attributes:
        content: all of it.
        etag: changes with the content.
        age_s: how long ago it was written, by S3's clock.
    """

    content: bytes
    etag: str
    age_s: float


def list_objects(folder: S3Uri) -> list[S3Object]:
    """Every object below a prefix, in the order of their keys."""
    prefix = f"{folder.key}/" if folder.key else ""

    def pages() -> list[S3Object]:
        found: list[S3Object] = []
        for page in _client().get_paginator("list_objects_v2").paginate(Bucket=folder.bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    uri = S3Uri(folder.bucket, item["Key"])
                    found.append(S3Object(uri, item["Size"], item["ETag"].strip('"')))
        return found

    return patiently(pages, folder)


def describe(uri: S3Uri) -> S3Object | None:
    """An object's size and ETag; None if there is none."""
    head = _head(uri)
    return None if head is None else S3Object(uri, head["ContentLength"], head["ETag"].strip('"'))


def read(uri: S3Uri) -> bytes | None:
    """An object's content; None if there is none."""
    found = read_version(uri)
    return None if found is None else found.content


def read_version(uri: S3Uri) -> Version | None:
    """An object as it is now; None if there is none."""

    def get() -> Version | None:
        try:
            answer = _client().get_object(Bucket=uri.bucket, Key=uri.key)
            now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            age_s = (now - answer["LastModified"]).total_seconds()
            return Version(bytes(answer["Body"].read()), answer["ETag"], age_s)
        except Exception as error:
            if _code(error) == "NoSuchKey":
                return None
            raise

    return patiently(get, uri)


def replace(uri: S3Uri, content: bytes, before: Version | None) -> bool:
    """Store a small object where it is still as it was read, None for absent; False where another wrote meanwhile.

    False, too, where it was stored but S3's answer was lost. A server that knows no conditions stores it in any case.
    """
    condition = {"IfNoneMatch": "*"} if before is None else {"IfMatch": before.etag}

    def put() -> bool:
        try:
            _client().put_object(Bucket=uri.bucket, Key=uri.key, Body=content, **condition)
        except Exception as error:
            if _code(error) == "NotImplemented":
                condition.clear()
                return put()
            if _code(error) in _OVERTAKEN:
                return False
            raise
        return True

    return patiently(put, uri)


def metadata(uri: S3Uri) -> dict[str, str] | None:
    """What was stored beside an object; None if there is no such object."""
    head = _head(uri)
    return None if head is None else dict(head.get("Metadata", {}))


def write(uri: S3Uri, content: bytes, beside: Mapping[str, str] | None = None) -> None:
    """Store an object of at most 5 GB in one piece, with what is to be told ``beside`` it in :func:`metadata`."""
    metadata = {_SHA256: hashlib.sha256(content).hexdigest(), **(beside or {})}
    patiently(lambda: _client().put_object(Bucket=uri.bucket, Key=uri.key, Body=content, Metadata=metadata), uri)


def upload_file(path: Path, uri: S3Uri) -> None:
    """Store a file, large ones in parts; it appears complete or not at all, with its SHA-256 beside it."""
    from boto3.s3.transfer import TransferConfig

    extra = {"Metadata": {_SHA256: sha256(path)}}
    transfer = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART, max_concurrency=4)

    def send() -> None:
        with path.open("rb") as file:
            _client().upload_fileobj(file, uri.bucket, uri.key, ExtraArgs=extra, Config=transfer)

    patiently(send, uri)


def delete(uri: S3Uri) -> None:
    """Remove an object, if it is there."""
    patiently(lambda: _client().delete_object(Bucket=uri.bucket, Key=uri.key), uri)


def download_file(uri: S3Uri, target: Path, partials: Path | None = None) -> None:
    """Fetch an object, going on where an earlier try was cut short, and verify it.

    Args:
        uri: the object.
        target: the file that it becomes.
        partials: the folder of this file system that it is kept in until it is whole; None is the target's.

    Raises:
        UserError: there is no such object, or S3 stayed away for longer than :func:`retry_budget_s`.
        DamagedError: it arrives with another checksum each time.
    """
    for left in reversed(range(_DAMAGED_TRIES)):
        try:
            patiently(lambda: _download_once(uri, target, partials or target.parent), uri)
            break
        except DamagedError:
            if not left:
                raise


def is_intact(path: Path, uri: S3Uri) -> bool:
    """Whether a file is the object, by its checksum."""
    head = _head(uri)
    return head is not None and path.is_file() and _matches(path, uri, head)


def retry_budget_s() -> float:
    """How long S3 may be away before a command gives up: $ANYSR_S3_RETRY_S, else 180 s."""
    text = os.environ.get("ANYSR_S3_RETRY_S", "180")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise UserError(f"ANYSR_S3_RETRY_S is a number of seconds, got {text!r}")
    return seconds


def patiently(call: Callable[[], T], uri: S3Uri) -> T:
    """Call S3, again and again with growing pauses while it is away or overloaded.

    Raises:
        UserError: it refused, or stayed away for longer than :func:`retry_budget_s`.
    """
    deadline = time.monotonic() + retry_budget_s()
    for wait in _waits():
        try:
            return call()
        except Exception as error:
            if not _is_transient(error):
                raise _explained(error, uri) from None
            if time.monotonic() + wait > deadline:
                raise UserError(
                    f"S3 did not answer for {retry_budget_s():g} s at {uri} ({one_line(error)[:200]}); see to "
                    "AWS_ENDPOINT_URL and the server, or raise ANYSR_S3_RETRY_S, and start again: nothing is lost"
                ) from None
            time.sleep(wait)
    raise AssertionError


def _waits() -> Iterator[float]:
    """Doubling, with jitter, so that many workers do not come back at once."""
    wait = _FIRST_WAIT_S
    while True:
        yield wait * _JITTER.uniform(0.5, 1)
        wait = min(2 * wait, _LONGEST_WAIT_S)


def _download_once(uri: S3Uri, target: Path, partials: Path) -> None:
    head = _head(uri)
    if head is None:
        raise UserError(f"there is no {uri}")
    etag, size = head["ETag"], head["ContentLength"]
    # Not by the key, whose last part may be as long as a file's name can be.
    partial = partials / f".{hashlib.sha256(f'{uri} {etag}'.encode()).hexdigest()[:24]}.partial"
    done = partial.stat().st_size if partial.exists() else 0
    if done < size:
        answer = _client().get_object(Bucket=uri.bucket, Key=uri.key, Range=f"bytes={done}-", IfMatch=etag)
        with partial.open("ab") as file:
            for chunk in answer["Body"].iter_chunks(_CHUNK):
                file.write(chunk)
    elif size == 0:
        partial.touch()
    if partial.stat().st_size < size:
        raise _ChangedError(f"{uri} was cut short")
    if not _matches(partial, uri, head):
        partial.unlink()
        raise DamagedError(f"{uri} arrives damaged: its checksum is another; store it again")
    partial.replace(target)


def _matches(path: Path, uri: S3Uri, head: dict[str, Any]) -> bool:
    """Whether a file has the object's size and the best checksum that is known of it."""
    if path.stat().st_size != head["ContentLength"]:
        return False
    known = head.get("Metadata", {}).get(_SHA256)
    if known:
        return sha256(path) == known
    etag = head["ETag"].strip('"')
    if head.get("SSECustomerAlgorithm") or head.get("ServerSideEncryption", "AES256") != "AES256":
        return True  # the ETag of an object encrypted with a key of its own is no digest
    if "-" in etag:
        return _matches_in_parts(path, uri, etag)
    return _md5s(path, [path.stat().st_size])[0].hex() == etag


def _matches_in_parts(path: Path, uri: S3Uri, etag: str) -> bool:
    """By the MD5 of the parts' MD5s; by the size alone where S3 does not tell how long each part is."""
    size, (md5, _, count) = path.stat().st_size, etag.rpartition("-")
    sizes: list[int] = []
    if count.isdecimal():
        first = _part_size(uri, 1)
        alike = [first] * (int(count) - 1) + [size - first * (int(count) - 1)]
        if min(alike) >= 0 and _md5_of_md5s(path, alike) == md5:
            return True  # nearly always: all but the last are of one size
        sizes = [first, *(_part_size(uri, number) for number in range(2, int(count) + 1))]
    if sum(sizes) == size:
        return _md5_of_md5s(path, sizes) == md5
    print(f"{uri} is checked by its size alone: S3 does not tell the sizes of its parts", file=sys.stderr, flush=True)
    return True


def _part_size(uri: S3Uri, number: int) -> int:
    head = _client().head_object
    return int(patiently(lambda: head(Bucket=uri.bucket, Key=uri.key, PartNumber=number)["ContentLength"], uri))


def _md5_of_md5s(path: Path, sizes: Sequence[int]) -> str:
    return hashlib.md5(b"".join(_md5s(path, sizes)), usedforsecurity=False).hexdigest()


def _md5s(path: Path, sizes: Sequence[int]) -> list[bytes]:
    with path.open("rb") as file:
        return [_md5_of_next(file, size) for size in sizes]


def _md5_of_next(file: Any, size: int) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    while size > 0 and (chunk := file.read(min(_CHUNK, size))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.digest()


def _head(uri: S3Uri) -> dict[str, Any] | None:
    def head() -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = _client().head_object(Bucket=uri.bucket, Key=uri.key)
            return answer
        except Exception as error:
            if _code(error) in _MISSING:
                return None
            raise

    return patiently(head, uri)


def _client() -> Any:
    return _client_for(*(os.environ.get(n) for n in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_PROFILE")))


@cache
def _client_for(*environment: str | None) -> Any:  # noqa: ARG001
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise UserError("s3:// needs boto3: pip install 'anysr[train]'") from None
    config = Config(
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        retries={"mode": "standard", "total_max_attempts": 2},  # the long breath is patiently()'s
        max_pool_connections=32,
    )
    return boto3.session.Session().client("s3", config=config)


def _code(error: Exception) -> str:
    """S3's name of an error; empty for other errors."""
    answer = getattr(error, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""


def _is_transient(error: Exception) -> bool:
    import botocore.exceptions as known

    if isinstance(error, known.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or _code(error) in _TRANSIENT | {"PreconditionFailed"}
    if isinstance(error, known.SSLError):
        return False  # a wrong certificate stays wrong
    connection = (known.ConnectionError, known.HTTPClientError, known.IncompleteReadError)
    return isinstance(error, (_ChangedError, ConnectionError, *connection))


def _explained(error: Exception, uri: S3Uri) -> Exception:
    import botocore.exceptions as known

    if isinstance(error, known.NoCredentialsError | known.PartialCredentialsError | known.ProfileNotFound):
        return UserError(f"no S3 credentials for {uri}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role")
    if not isinstance(error, known.ClientError):
        return error
    code, status = _code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return UserError(f"there is no bucket {uri.bucket}; make it, or correct {uri}")
    if code in _MISSING:
        return UserError(f"there is no {uri}")
    if status in (401, 403):
        return UserError(f"S3 refuses access to {uri} ({code}); see to the credentials and to the bucket's policy")
    return UserError(f"S3 could not serve {uri} ({one_line(error)[:200]})")
