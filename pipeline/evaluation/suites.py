"""Suites: folders of HR images, alone or beside folders of LR images made elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

from anysr.imaging import upright_size
from pipeline.data.degrade import pair_sizes
from pipeline.data.photos import hr_folder, list_photos
from pipeline.errors import UserError
from pipeline.evaluation.scales import Scale
from pipeline.storage.cache import local_folder
from pipeline.storage.places import S3Uri, named_place, parse_place

_FORMS = "write NAME=HR_FOLDER or NAME=HR_FOLDER,LR_FOLDER, where {scale} in LR_FOLDER stands for the scale"
_SPLITS = ("train", "valid", "validation", "test")
_PARTS = re.compile(r"\d+|[^\W\d_]+|[\W_]+")


@dataclass(frozen=True)
class Suite:
    """Images that are scored and averaged together.

    Attributes:
        name: as in rows.
        folder: where the HR images lie.
        hr: their paths, in a fixed order.
        lr: for each scale the LR images, in the same order; empty when they are to be made.
    """

    name: str
    folder: Path
    hr: tuple[Path, ...]
    lr: dict[Scale, tuple[Path, ...]] = field(default_factory=dict)

    def image_name(self, index: int) -> str:
        """Path of an HR image below the folder."""
        return self.hr[index].relative_to(self.folder).as_posix()


def open_suite(text: str, scales: Sequence[Scale], say: Callable[[str], None] = lambda line: None) -> Suite:
    """The suite that ``NAME=HR_FOLDER[,LR_FOLDER]`` names.

    Of a data set with its HR images in a folder ``HR`` that one is scored, and ``say`` is told so. The name
    may be left out: it is the data set's then, as in :func:`name_of`.

    Raises:
        UserError: a folder is missing or without images, or HR and LR do not belong together.
    """
    name, folders = named_place(text)
    hr_text, comma, lr_text = _folders(folders)
    if not hr_text or name == "" or (comma and not lr_text):
        raise UserError(f"{text!r} is not a suite; {_FORMS}")
    given = local_folder(hr_text).resolve()
    place = parse_place(hr_text)
    name = name or name_of(PurePosixPath(place.bucket, place.key) if isinstance(place, S3Uri) else given)
    folder = hr_folder(given)
    suite = Suite(name, folder, _images(folder, name))
    if folder != given:
        say(f"suite {name}: the {len(suite.hr)} images in {folder} are scored, and nothing beside that folder")
    if not lr_text:
        return suite
    if "{scale}" not in lr_text and len(scales) > 1:
        raise UserError(f"one folder of LR images, {lr_text}, cannot serve {len(scales)} scales; {_FORMS}")
    return Suite(suite.name, folder, suite.hr, {scale: _given(suite, lr_text, scale) for scale in scales})


def _folders(text: str) -> tuple[str, str, str]:
    """The parts of ``HR_FOLDER,LR_FOLDER``, whose paths may hold commas, too: HR_FOLDER is what exists, if anything."""
    commas = [place for place, letter in enumerate(text) if letter == ","]
    exists = (end for end in (len(text), *commas) if Path(text[:end]).expanduser().is_dir())
    end = next(exists, (*commas, len(text))[0])
    return text[:end], text[end : end + 1], text[end + 1 :]


def name_of(folder: PurePath) -> str:
    """What a data set's folder is called: Set5 for ``Set5/HR``, DIV2K_valid for ``DIV2K/valid/HR``."""
    folder = folder.parent if folder.name == "HR" and folder.parent.name else folder
    return f"{folder.parent.name}_{folder.name}".strip("_") if folder.name in _SPLITS else folder.name


def _images(folder: Path, suite: str) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise UserError(f"suite {suite}: there is no folder {folder}; {_FORMS}")
    return tuple(list_photos(folder))


def _given(suite: Suite, template: str, scale: Scale) -> tuple[Path, ...]:
    folder = local_folder(template.replace("{scale}", str(scale))).resolve()
    found = _images(folder, suite.name)
    if len(found) != len(suite.hr):
        raise UserError(
            f"suite {suite.name}: {len(suite.hr)} HR images in {suite.folder}, but {len(found)} LR images in {folder}; "
            "each HR image needs its LR image"
        )
    lr = _paired(suite.hr, found, scale) or _paired_by_numbers(suite, folder, found)
    for high, low in zip(suite.hr, lr, strict=True):
        _check_sizes(high, low, scale)
    return lr


def _paired(hr: Sequence[Path], lr: Sequence[Path], scale: Scale) -> tuple[Path, ...]:
    """By name, where every LR image is called as its HR image or with ``x2`` after it; else none."""
    by_stem = {path.stem: path for path in lr}
    for suffix in ("", f"x{scale}"):
        if len(by_stem) == len(lr) and all(path.stem + suffix in by_stem for path in hr):
            return tuple(by_stem[path.stem + suffix] for path in hr)
    return ()


def _paired_by_numbers(suite: Suite, folder: Path, lr: Sequence[Path]) -> tuple[Path, ...]:
    """By what tells the names of one folder apart, numbers as numbers: 2.png and img_002_LR.png are a pair.

    Raises:
        UserError: that is not the same in both folders.
    """
    ours, theirs = _telling(suite.hr, suite.folder), _telling(lr, folder)
    by_key = dict(zip(theirs, lr, strict=True))
    lost = [path for key, path in zip(ours, suite.hr, strict=True) if key not in by_key]
    if lost or len(by_key) < len(lr) or len(set(ours)) < len(ours):
        first = (lost or suite.hr)[0]
        raise UserError(
            f"suite {suite.name}: it is not clear which image in {folder} is the LR image of {first.name}; call it "
            f"{first.name}, and each other one as its HR image"
        )
    return tuple(by_key[key] for key in ours)


def _telling(paths: Sequence[Path], folder: Path) -> list[tuple[str | int, ...]]:
    """The words and numbers of each path below a folder, without those that all begin or end with."""
    names = [path.relative_to(folder).with_suffix("").as_posix().lower() for path in paths]
    parts = [[int(part) if part.isdecimal() else part for part in _PARTS.findall(name)] for name in names]
    for end in (0, -1):
        while all(parts) and len({one[end] for one in parts}) == 1:
            for one in parts:
                del one[end]
    return [tuple(one) for one in parts]


def _check_sizes(hr: Path, lr: Path, scale: Scale) -> None:
    high, low = upright_size(hr), upright_size(lr)
    if high is None or low is None:
        return  # unreadable: its rows will say so
    expected, _ = pair_sizes(high, scale.pair)
    if low != expected:
        raise UserError(
            f"{lr} is {low[1]} x {low[0]}, but {hr} of {high[1]} x {high[0]} shrunk by {scale} is "
            f"{expected[1]} x {expected[0]}; give the LR images of this scale, or leave them out to have them made"
        )
