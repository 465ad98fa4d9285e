"""Which files are enlarged, and where each result goes: inside the output folder and nowhere else."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from anysr.cli import shown
from anysr.files import is_same_file
from anysr.imaging.write import FORMATS, format_of

_SUFFIXES = {suffix for spec in FORMATS.values() for suffix in spec.suffixes}
_READ_ONLY_SUFFIXES = {".bmp", ".gif"}
# A folder is hardly called so: who asks for one of these wants an image.
_UNWRITTEN_SUFFIXES = _READ_ONLY_SUFFIXES | {".avif", ".heic", ".ico", ".jfif", ".jp2", ".jxl", ".psd", ".tga"}
_FALLBACK_SUFFIX = ".png"


@dataclass(frozen=True)
class Job:
    """One image.

    Attributes:
        source: the image.
        target: its enlargement.
        root: the folder that ``target`` must lie in, whatever links there are.
        is_kept: started again, a result that is there is good enough.
    """

    source: Path
    target: Path
    root: Path
    is_kept: bool


def collect_jobs(inputs: Sequence[str], out: Path, suffix: str | None) -> list[Job]:
    """The images that files, folders and globs stand for, in a fixed order.

    A folder's images keep their place below it; links to folders are not followed. ``out`` is a file
    when it is named like an image, there is one input file, and no folder of that name.

    Raises:
        ValueError: an input that does not exist or holds no image, two results of one name, a result that
            would replace its source, or an output that is no folder or of a format that is not written.
    """
    if _is_file_name(out):
        return [_single(inputs, out, suffix)]
    _check_is_folder_name(out)
    found: dict[Path, Path] = {}
    for text in inputs:
        for source, relative in _expand(text, out):
            target = out / relative.with_name(result_name(relative, suffix))
            other = found.setdefault(target, source)
            if other != source and not is_same_file(other, source):
                raise ValueError(
                    f"{shown(other)} and {shown(source)} would both become {shown(target)}; enlarge them into "
                    "folders of their own"
                )
    jobs = [Job(source, target, out, is_kept=True) for target, source in found.items()]
    for job in jobs:
        _check_keeps_source(job)
    return jobs


def _is_file_name(out: Path) -> bool:
    return out.suffix.lower() in _SUFFIXES and not out.is_dir()


def _check_is_folder_name(out: Path) -> None:
    if out.suffix.lower() in _UNWRITTEN_SUFFIXES and not out.is_dir():
        format_of(out)
    if os.path.lexists(out) and not out.is_dir():
        raise ValueError(f"-o {shown(out)} is there and no folder; name a folder, or an image by its ending")


def _single(inputs: Sequence[str], out: Path, suffix: str | None) -> Job:
    if suffix is not None and suffix not in format_of(out).suffixes:
        raise ValueError(f"--format writes *{suffix}, but -o is {shown(out)}; leave one of them out")
    sources = [pair[0] for text in inputs for pair in _expand(text, out)]
    if len(sources) != 1 or Path(inputs[0]).is_dir():
        raise ValueError(f"-o {shown(out)} is one image, but there are {len(sources)} to enlarge; give a folder")
    job = Job(sources[0], out, out.parent, is_kept=False)
    _check_keeps_source(job)
    return job


def _expand(text: str, out: Path) -> Iterator[tuple[Path, Path]]:
    """Images and their places below the output folder."""
    path = Path(text)
    if path.is_dir():
        yield from images_below(path, out)
    elif path.is_file():
        yield path, Path(path.name)
    elif os.path.lexists(path):
        raise ValueError(f"{shown(path)} is neither a file nor a folder")
    elif glob.has_magic(text):
        yield from _globbed(text, out)
    else:
        raise ValueError(f"there is no file or folder {shown(text)}")


def images_below(folder: Path, out: Path | None) -> Iterator[tuple[Path, Path]]:
    """Images in a folder, and their places below it; those in ``out`` are left out.

    Raises:
        ValueError: there are none.
    """
    is_empty, left_out = True, list[Path]()
    skipped = out.resolve() if out is not None else None
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (Path(place) / f).resolve() != skipped)
        for name in sorted(names):
            path = Path(place) / name
            if is_image_name(path) and path.is_file():
                is_empty = False
                yield path, path.relative_to(folder)
            elif path.suffix.lower() in _UNWRITTEN_SUFFIXES:
                left_out.append(path)
    if is_empty:
        read = ", ".join(sorted(_SUFFIXES | _READ_ONLY_SUFFIXES))
        raise ValueError(f"{shown(folder)} holds no image; names ending in {read} are read")
    if left_out:
        print(
            f"note: {len(left_out)} images in {shown(folder)} are of kinds that are not read, such as "
            f"{shown(left_out[0])}; save them as JPEG, PNG, WebP or TIFF",
            file=sys.stderr,
        )


def is_image_name(name: PurePath) -> bool:
    """Whether a file is looked at when its folder is enlarged."""
    return name.suffix.lower() in _SUFFIXES | _READ_ONLY_SUFFIXES and not name.name.startswith(".")


def _globbed(pattern: str, out: Path) -> Iterator[tuple[Path, Path]]:
    plain: list[str] = []
    for part in Path(pattern).parts:
        if glob.has_magic(part):
            break
        plain.append(part)
    base = Path(*plain)
    hits = [Path(hit) for hit in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - pathlib's knows no root
    there = [hit for hit in hits if hit.is_file()]
    files = [hit for hit in there if not hit.resolve().is_relative_to(out.resolve())]
    if not files:
        if there:
            raise ValueError(f"all that is called {shown(pattern)} lies in the output folder; choose another -o")
        raise ValueError(f"no file is called {shown(pattern)}")
    for file in files:
        yield file, file.relative_to(base) if ".." not in file.relative_to(base).parts else Path(file.name)


def result_name(source: PurePath, suffix: str | None) -> str:
    """The name of an image's enlargement; without a suffix, the image's own where its format is written."""
    own = source.suffix.lower()
    if suffix is None and own in _SUFFIXES:
        return source.name
    stem = source.stem if own in _SUFFIXES | _READ_ONLY_SUFFIXES else source.name
    return stem + (suffix or _FALLBACK_SUFFIX)


def _check_keeps_source(job: Job) -> None:
    if is_same_file(job.source, job.target):
        raise ValueError(f"{shown(job.target)} would replace the image it is made from; choose another -o")
