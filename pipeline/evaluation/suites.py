"""Suites: folders of HR images, alone or beside folders of LR images made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anysr.imaging import upright_size
from pipeline.data.degrade import pair_sizes
from pipeline.data.photos import list_photos
from pipeline.errors import UserError
from pipeline.evaluation.scales import Scale
from pipeline.storage.cache import local_folder
from pipeline.storage.places import is_s3, parse_place

_FORMS = "write NAME=HR_FOLDER or NAME=HR_FOLDER,LR_FOLDER, where {scale} in LR_FOLDER stands for the scale"


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


def open_suite(text: str, scales: Sequence[Scale]) -> Suite:
    """The suite that ``NAME=HR_FOLDER[,LR_FOLDER]`` names; the name may be left out.

    Raises:
        UserError: a folder is missing or without images, or HR and LR do not belong together.
    """
    name, equals, folders = text.rpartition("=")
    hr_text, comma, lr_text = folders.partition(",")
    folder = local_folder(hr_text).resolve() if hr_text else Path()
    if not hr_text or (equals and not name) or (comma and not lr_text):
        raise UserError(f"{text!r} is not a suite; {_FORMS}")
    name = name or (parse_place(hr_text).name if is_s3(hr_text) else folder.name)
    suite = Suite(name, folder, _images(folder, name))
    if not lr_text:
        return suite
    if "{scale}" not in lr_text and len(scales) > 1:
        raise UserError(f"one folder of LR images, {lr_text}, cannot serve {len(scales)} scales; {_FORMS}")
    return Suite(suite.name, folder, suite.hr, {scale: _given(suite, lr_text, scale) for scale in scales})


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
    lr = _paired(suite.hr, found, scale)
    for high, low in zip(suite.hr, lr, strict=True):
        _check_sizes(high, low, scale)
    return lr


def _paired(hr: Sequence[Path], lr: Sequence[Path], scale: Scale) -> tuple[Path, ...]:
    """By name, where every LR image is called as its HR image or with ``x2`` after it; else by order."""
    by_stem = {path.stem: path for path in lr}
    for suffix in ("", f"x{scale}"):
        if len(by_stem) == len(lr) and all(path.stem + suffix in by_stem for path in hr):
            return tuple(by_stem[path.stem + suffix] for path in hr)
    return tuple(lr)


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
