"""Which images of a folder or prefix are enlarged, and where each result goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from anysr.cli import shown
from anysr.cli.inputs import check_keep_sources, images_below, is_image_name, result_name
from anysr.cli.results import stamp_of
from pipeline.errors import UserError
from pipeline.storage import s3
from pipeline.storage.places import Place, S3Uri


@dataclass(frozen=True)
class Unit:
    """One image.

    Attributes:
        name: its path below the source.
        source: where it is.
        target: where its enlargement goes.
        stamp: changes whenever the image may.
    """

    name: str
    source: Place
    target: Place
    stamp: str


def find_units(source: Place, out: Place, suffix: str | None) -> tuple[list[Unit], dict[str, str]]:
    """The images below ``source`` in a fixed order, and what cannot be read or named below ``out``, with the reason.

    Args:
        source: folder, or prefix on S3; hidden files and folders in it are left out, as is ``out``.
        out: folder or prefix of the results.
        suffix: of the results' names; None is the image's own.

    Raises:
        UserError: there is no image, or two results would have one name.
        ValueError: a result would replace an image; there is none in a folder.
    """
    units, odd = dict[Place, Unit](), dict[str, str]()
    for place, name, stamp in _images(source, out, odd):
        path = PurePosixPath(name)
        if fault := _fault(name, out):
            odd[name] = fault
            continue
        target = out / path.with_name(result_name(path, suffix)).as_posix()
        other = units.setdefault(target, Unit(name, place, target, stamp))
        if other.name != name:
            raise UserError(
                f"{shown(other.name)} and {shown(name)} would both become {shown(target)}; move one of them into a "
                "folder of its own"
            )
    check_keep_sources([(unit.source, unit.target) for unit in units.values()])
    return list(units.values()), odd


def _images(source: Place, out: Place, odd: dict[str, str]) -> Iterator[tuple[Place, str, str]]:
    """Place, name and stamp of each; what cannot be read goes to ``odd``."""
    if isinstance(source, S3Uri):
        yield from _objects(source, out)
        return
    if not source.is_dir():
        raise UserError(f"there is no folder {shown(source)}; for single images use anysr upscale")

    def tell(error: OSError) -> None:
        odd[Path(error.filename).relative_to(source).as_posix()] = (error.strerror or str(error)).lower()

    for path, relative in images_below(source, out if isinstance(out, Path) else None, tell):
        yield path, relative.as_posix(), stamp_of(path)


def _objects(source: S3Uri, out: Place) -> Iterator[tuple[Place, str, str]]:
    skip = len(source.key) + 1 if source.key else 0
    inside = f"{out.key}/" if isinstance(out, S3Uri) and out.bucket == source.bucket and out != source else None
    is_empty = True
    for one in s3.list_objects(source):
        name = one.uri.key[skip:]
        hidden = any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))
        if hidden or not is_image_name(PurePosixPath(name)) or (inside and one.uri.key.startswith(inside)):
            continue
        is_empty = False
        yield one.uri, name, one.etag
    if is_empty:
        raise UserError(f"there is no image below {source}; give the prefix that their keys begin with")


def _fault(name: str, out: Place) -> str | None:
    """Why a name cannot be used below ``out``."""
    if any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
        return "its key is not the path of a file below the prefix; store it under another one"
    if isinstance(out, S3Uri):
        try:
            name.encode()
        except UnicodeEncodeError:
            return "its name is no text in UTF-8, as keys on S3 must be; rename it"
    return None
