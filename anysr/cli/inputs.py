"""Which files are enlarged, and where each result goes: inside the output folder and nowhere else."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from anysr.cli import shown
from anysr.files import is_same_file
from anysr.imaging.write import FORMATS, format_of

_SUFFIXES = {suffix for spec in FORMATS.values() for suffix in spec.suffixes}
_READ_ONLY_SUFFIXES = {".bmp", ".gif"}
# Of images that are not written: a path that ends so is refused as an image, not made as a folder.
_UNWRITTEN_SUFFIXES = _READ_ONLY_SUFFIXES | {".avif", ".heic", ".ico", ".jfif", ".jp2", ".jxl", ".psd", ".tga"}
_FALLBACK_SUFFIX = ".png"
_STREAM = "-"
_ANY_DEPTH = "**"


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


def collect_jobs(inputs: Sequence[str], output: str, suffix: str | None) -> tuple[list[Job], list[tuple[Path, str]]]:
    """The images that files, folders and globs stand for, in a fixed order, and what cannot be read, with the reason.

    A folder's images keep their place below it; links to folders are not followed, nor by ``**`` in a glob. ``output``
    is a file when it is named like an image, without a slash at its end, there is one input file, and no folder of
    that name.

    Raises:
        ValueError: an input that does not exist or holds no image, two results of one name, a result that
            would replace a source, or an output that is no folder or of a format that is not written.
    """
    out, is_folder = Path(output), output.endswith(("/", os.sep))
    if output in ("", _STREAM):
        raise ValueError(f"-o is an image file or a folder, got {output!r}; nothing is written to standard output")
    if not is_folder and _is_file_name(out):
        return [_single(inputs, out, suffix)], []
    _check_is_folder_name(out, is_folder)
    found, unread = dict[Path, Path](), list[OSError]()
    for text in inputs:
        for source, relative in _expand(text, out, unread.append):
            target = out / relative.with_name(result_name(relative, suffix))
            other = found.setdefault(target, source)
            if other != source and not is_same_file(other, source):
                raise ValueError(
                    f"{shown(other)} and {shown(source)} would both become {shown(target)}; enlarge them into "
                    "folders of their own"
                )
    jobs = [Job(source, target, out, is_kept=True) for target, source in found.items()]
    check_keep_sources([(job.source, job.target) for job in jobs])
    return jobs, _told(unread)


def _told(unread: Sequence[OSError]) -> list[tuple[Path, str]]:
    return [(Path(os.fsdecode(error.filename)), (error.strerror or str(error)).lower()) for error in unread]


def _is_file_name(out: Path) -> bool:
    return out.suffix.lower() in _SUFFIXES and not out.is_dir()


def _check_is_folder_name(out: Path, has_slash: bool) -> None:
    if out.suffix.lower() in _UNWRITTEN_SUFFIXES and not (has_slash or out.is_dir()):
        format_of(out)
    if os.path.lexists(out) and not out.is_dir():
        raise ValueError(f"-o {shown(out)} exists but is not a folder; name a folder, or an image by its ending")


def _single(inputs: Sequence[str], out: Path, suffix: str | None) -> Job:
    if suffix is not None and suffix not in format_of(out).suffixes:
        raise ValueError(f"--format writes *{suffix}, but -o is {shown(out)}; leave one of them out")
    folder = next((text for text in inputs if Path(text).is_dir()), None)
    if folder is not None:
        raise ValueError(
            f"-o {shown(out)} is one image, but {shown(folder)} is a folder; give a folder, or {out.name}/"
        )
    sources = [pair[0] for text in inputs for pair in _expand(text, out)]
    if len(sources) != 1:
        raise ValueError(f"-o {shown(out)} is one image, but there are {len(sources)} to enlarge; give a folder")
    check_keep_sources([(sources[0], out)])
    return Job(sources[0], out, out.parent, is_kept=False)


def _expand(text: str, out: Path, onerror: Callable[[OSError], None] | None = None) -> Iterator[tuple[Path, Path]]:
    """Images and their places below the output folder."""
    path = Path(text)
    if text == _STREAM:
        raise ValueError("images are read from files and folders, not from standard input: name one instead of -")
    if path.is_dir():
        yield from images_below(path, out, onerror)
    elif path.is_file():
        yield path, Path(path.name)
    elif os.path.lexists(path):
        raise ValueError(f"{shown(path)} is neither a file nor a folder")
    elif glob.has_magic(text):
        yield from _globbed(text, out)
    else:
        raise ValueError(f"there is no file or folder {shown(text)}")


def images_below(
    folder: Path, out: Path | None, onerror: Callable[[OSError], None] | None
) -> Iterator[tuple[Path, Path]]:
    """Images in a folder, and their places below it; those in ``out`` are left out.

    Args:
        folder: where to look.
        out: of the results.
        onerror: told of what cannot be read; its images are not found.

    Raises:
        ValueError: there are none.
    """
    is_empty, unread, no_files = True, list[Path](), list[Path]()

    def tell(error: OSError) -> None:
        nonlocal is_empty
        is_empty = False  # as far as anybody knows
        if onerror is not None:
            onerror(error)

    skipped = out.resolve() if out is not None else None
    for place, folders, names in os.walk(folder, onerror=tell):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (Path(place) / f).resolve() != skipped)
        for name in sorted(names):
            path = Path(place) / name
            if not is_image_name(path):
                if path.suffix.lower() in _UNWRITTEN_SUFFIXES:
                    unread.append(path)
                continue
            try:
                is_file = path.is_file()
            except OSError as error:  # a folder that may be listed and not entered
                tell(error)
            else:
                if is_file:
                    is_empty = False
                    yield path, path.relative_to(folder)
                else:
                    no_files.append(path)
    if is_empty:
        read = ", ".join(sorted(_SUFFIXES | _READ_ONLY_SUFFIXES))
        raise ValueError(f"{shown(folder)} holds no image; names ending in {read} are read")
    for left_out, why in (
        (unread, "images in {} are of kinds that are not read, such as {}; save them as JPEG, PNG, WebP or TIFF"),
        (no_files, "images in {} are broken links, or no files, such as {}"),
    ):
        if left_out:
            print(f"note: {len(left_out)} {why.format(shown(folder), shown(left_out[0]))}", file=sys.stderr)


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
    there = [hit for hit in sorted(_matches(pattern)) if hit.is_file()]
    files = [hit for hit in there if not hit.resolve().is_relative_to(out.resolve())]
    if not files:
        if there:
            raise ValueError(f"all that is called {shown(pattern)} lies in the output folder; choose another -o")
        raise ValueError(f"no file is called {shown(pattern)}")
    for file in files:
        yield file, file.relative_to(base) if ".." not in file.relative_to(base).parts else Path(file.name)


def _matches(pattern: str) -> set[Path]:
    """What a pattern stands for, where ``**`` follows no links to folders, which may lead round in circles."""
    parts = Path(pattern).parts
    if _ANY_DEPTH not in parts:
        return set(map(Path, glob.glob(pattern)))  # noqa: PTH207 - pathlib's knows no root
    first = parts.index(_ANY_DEPTH)
    below = parts[first + 1 :] or ("*",)
    folders = {folder for top in _matches(str(Path(*parts[:first]))) for folder in _folders(top)}
    return {hit for folder in folders for hit in _matches(str(Path(glob.escape(str(folder)), *below)))}


def _folders(top: Path) -> Iterator[Path]:
    for place, folders, _ in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield Path(place)


def result_name(source: PurePath, suffix: str | None) -> str:
    """The name of an image's enlargement; without a suffix, the image's own where its format is written."""
    own = source.suffix.lower()
    if suffix is None and own in _SUFFIXES:
        return source.name
    stem = source.stem if own in _SUFFIXES | _READ_ONLY_SUFFIXES else source.name
    return stem + (suffix or _FALLBACK_SUFFIX)


def check_keep_sources(places: Sequence[tuple[Hashable, Hashable]]) -> None:
    """Refuse results that would replace an image; of each the image and its result, paths or addresses.

    Raises:
        ValueError: one would.
    """
    sources = {_resolved(source) for source, _ in places}
    for source, target in places:
        is_same = isinstance(source, Path) and isinstance(target, Path) and is_same_file(source, target)
        if is_same or _resolved(target) in sources:
            raise ValueError(f"{shown(target)} would replace an image that is to be enlarged; choose another -o")


def _resolved(place: Hashable) -> Hashable:
    return place.resolve() if isinstance(place, Path) else place
