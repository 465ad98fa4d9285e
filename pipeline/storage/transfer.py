"""Storing and reading at a place, whichever kind it is."""

from __future__ import annotations

import shutil
from pathlib import Path

from anysr.files import whole_file
from pipeline.storage import s3
from pipeline.storage.places import Place, S3Uri, parse_place


def upload(path: Path, place: str | Place) -> None:
    """Copy a file, or a folder with all it holds, to a place; each file appears complete or not at all.

    Raises:
        UserError: S3 refuses or stays away.
    """
    target = parse_place(place)
    if path.is_dir():
        for file in sorted(one for one in path.rglob("*") if one.is_file()):
            upload(file, target / file.relative_to(path).as_posix())
    elif isinstance(target, S3Uri):
        s3.upload_file(path, target)
    elif path.resolve() != target.expanduser().resolve():
        target = target.expanduser()
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as partial:
            shutil.copyfile(path, partial)


def remove(place: str | Place) -> None:
    """Delete a file, if it is there."""
    place = parse_place(place)
    if isinstance(place, Path):
        place.expanduser().unlink(missing_ok=True)
    else:
        s3.delete(place)


def exists(place: str | Place) -> bool:
    """Whether there is a file, or a folder that holds anything."""
    place = parse_place(place)
    if isinstance(place, Path):
        return place.expanduser().exists()
    return s3.describe(place) is not None or bool(s3.list_objects(place))


def read_text(place: str | Place) -> str | None:
    """A small file's text; None if there is none."""
    place = parse_place(place)
    if isinstance(place, Path):
        return place.read_text() if place.is_file() else None
    content = s3.read(place)
    return None if content is None else content.decode()
