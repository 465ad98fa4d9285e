"""What a path or URI names: a place on this machine, or one on S3."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.errors import UserError

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SCHEME = re.compile(r"(?i)(file|s3|[a-z][a-z0-9+.-]*(?=:/)):")


@dataclass(frozen=True)
class S3Uri:
    """An object, or all objects below a prefix.

    Attributes:
        bucket: its name.
        key: without slashes at either end; empty is the whole bucket.
    """

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}" if self.key else f"s3://{self.bucket}"

    def __truediv__(self, name: str) -> S3Uri:
        return S3Uri(self.bucket, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """The last part."""
        return self.key.rpartition("/")[2] or self.bucket


Place = Path | S3Uri


def parse_place(text: str | Place) -> Place:
    """Read a plain path, ``file:path`` or ``s3://bucket/key``.

    Raises:
        UserError: another scheme, or no bucket.
    """
    if isinstance(text, S3Uri):
        return text
    scheme = _SCHEME.match(str(text))
    if isinstance(text, Path) or scheme is None:
        return Path(text)
    if scheme[1].lower() == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise UserError(f"{text} names the host {parts.netloc!r}; write file:///path for a file of this machine")
        return Path(unquote(parts.path))
    if scheme[1].lower() != "s3":
        raise UserError(f"{scheme[1]}: is no place that can be read; give a path, file:/path or s3://bucket/key")
    bucket, _, key = text[len("s3://") :].partition("/")
    if not text[len("s3:") :].startswith("//") or not _BUCKET.fullmatch(bucket):
        raise UserError(
            "an S3 place is written s3://bucket/key, where bucket has 3 to 63 small letters, digits, dots and hyphens; "
            "credentials come from the environment alone"
        )
    return S3Uri(bucket, key.strip("/"))


def path_here(text: str | Place) -> Path:
    """Read a plain path or ``file:path``, where nothing but a path of this machine will do.

    Raises:
        UserError: a place elsewhere.
    """
    place = parse_place(text)
    if isinstance(place, S3Uri):
        raise UserError(f"{place} is on S3, but this must be on this machine; give a path here")
    return place


def named_place(text: str) -> tuple[str | None, str]:
    """The parts of ``NAME=PLACE``; None without a name.

    A name holds no slash, and what exists is a place as a whole: paths may hold ``=``, too.
    """
    name, equals, place = text.partition("=")
    if not equals or "/" in name or Path(text).expanduser().exists():
        return None, text
    return name, place
