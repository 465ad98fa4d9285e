"""Data sets on this disk: fetched, checked, unpacked into one layout, and decoded for training.

Whatever ends this, and whenever, running it again does what is left, and nothing else.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import DataConfig
from pipeline.data.datasets import DATASETS, MANGA109, Archive, Dataset
from pipeline.data.download import Patience, Remote, bytes_so_far, fetch
from pipeline.data.layout import archive_file, check_ours, empty_folder, is_ready, put
from pipeline.data.photo_cache import cache_folder
from pipeline.data.photo_map import open_photo_map
from pipeline.data.photos import hr_folder, list_photos
from pipeline.data.progress import shown_progress
from pipeline.data.unpack import Limits, unpack
from pipeline.errors import UserError, without_secrets
from pipeline.files import held, sha256

# PNG hardly compresses: what unpacks to much more is no archive of images.
_UNPACKED, _SPARE_BYTES = 1.5, 50_000_000
_DECODED = 2.2  # bytes in the memory map for a byte of PNG, at most


@dataclass(frozen=True)
class Preparation:
    """How to go about it.

    Attributes:
        root: folder of all data sets.
        cache: where decoded photos are kept; None as in training.
        mirror: address of a folder that holds the archives; None is the official places.
        verified: take no archive but the published one.
        keep_archives: leave them where they were fetched to.
        decode: build the memory maps, too.
        patience: with the network.
        say: told what happens.
    """

    root: Path
    cache: Path | None = None
    mirror: str | None = None
    verified: bool = True
    keep_archives: bool = False
    decode: bool = True
    patience: Patience = field(default_factory=Patience)
    say: Callable[[str], None] = print


def prepare(datasets: Sequence[Dataset], how: Preparation) -> None:
    """Make data sets ready; those that are stay as they are.

    Raises:
        UserError: the disk is too small or full, an archive cannot be had, is another or is damaged, a
            folder of the user's is in the way, or another process is at it.
    """
    with _held_root(how.root):
        missing = [dataset for dataset in datasets if not is_ready(dataset, how.root)]
        for dataset in missing:
            check_ours(how.root / dataset.folder)
        if how.verified:  # nobody knows how large other archives are
            _check_disk(missing, how)
        for archive in dict.fromkeys(dataset.archive for dataset in missing):
            _lay_out(archive, missing, how)
        for dataset in datasets:
            if how.decode and dataset.use == "training":
                photos = dataset.images_in(how.root)
                with shown_progress(f"decoding {dataset.name}", "photos") as report:
                    open_photo_map(photos, DataConfig(cache=how.cache), report=report)


def take_manga109(given: Path, how: Preparation) -> None:
    """Copy the user's images of Manga109 into the layout.

    Raises:
        UserError: there are none, or no room for them.
    """
    folder = hr_folder(given.expanduser().resolve())
    images, target = list_photos(folder), how.root / MANGA109
    if len(images) != 109:
        how.say(f"note: the benchmark {MANGA109} is 109 images, one page of each volume; {folder} holds {len(images)}")
    with _held_root(how.root):
        check_ours(target)
        _check_room(how.root, sum(image.stat().st_size for image in images), MANGA109)
        filled = empty_folder(how.root, MANGA109)
        try:
            for image in images:
                copy = filled / "HR" / image.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(image, copy)
        except OSError as error:
            raise UserError(f"cannot copy {error.filename} ({error.strerror})") from error
        put(filled, target, {"data set": MANGA109, "folder": str(folder)})


def _lay_out(archive: Archive, missing: Sequence[Dataset], how: Preparation) -> None:
    """Fetch one archive; put in place what was asked for of it, and what else it brings where there is nothing."""
    wanted = [one for one in missing if one.archive == archive]
    others = [one for one in DATASETS.values() if one.archive == archive and not (how.root / one.folder).exists()]
    file = archive_file(how.root, wanted[0])
    was_there = file.is_file()
    source = _archive(file, archive.remote(how.mirror, how.verified), how)
    filled = empty_folder(how.root, file.name)
    try:
        _unpack(file, dict.fromkeys([*wanted, *others]), filled)
        for one in wanted:
            _check_count(one, filled, how)
    except UserError as error:
        shutil.rmtree(filled, ignore_errors=True)
        if not was_there and not isinstance(error.__cause__, OSError):  # of a full disk it knows nothing
            file.unlink()  # the next run is to fetch it anew, not to stumble over it
        raise
    for one in dict.fromkeys([*wanted, *others]):
        if one.images_in(filled).is_dir():
            terms = {"data set": one.name, "terms": one.terms, "homepage": one.homepage}
            put(filled / one.folder, how.root / one.folder, terms | source)
            how.say(f"{file.name}: {one.name} is in {one.images_in(how.root)}")
    shutil.rmtree(filled, ignore_errors=True)
    if not how.keep_archives:
        file.unlink()


def _archive(file: Path, remote: Remote, how: Preparation) -> dict[str, Any]:
    """Make sure of the archive; returns what is known of it."""
    digest = sha256(file) if file.is_file() else None
    if digest is not None and remote.sha256 in (None, digest):
        how.say(f"{file} is there already")
    else:
        if digest is not None:
            how.say(f"{file} is another file than the published one (SHA-256 {digest}): it will be replaced")
        size = "" if remote.num_bytes is None else f", {remote.num_bytes / 1e6:,.0f} MB"
        how.say(without_secrets(f"fetching {remote.url}{size}"))
        file.parent.mkdir(parents=True, exist_ok=True)
        with shown_progress(file.name, "MB") as report:
            digest = fetch(remote, file, report, how.say, how.patience)
    compared = "as published" if remote.sha256 else "recorded, not compared with a published one"
    how.say(f"{file.name}: {file.stat().st_size} bytes, SHA-256 {digest} ({compared})")
    return {
        "archive": file.name,
        "url": without_secrets(remote.url),
        "bytes": file.stat().st_size,
        "sha256": digest,
        "compared": remote.sha256 is not None,
        "unpacked": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _unpack(file: Path, datasets: Iterable[Dataset], filled: Path) -> None:
    """Fill a folder with what an archive holds of the data sets, in their layout."""

    def place(member: str) -> Path | None:
        places = ((one.folder, one.place(member)) for one in datasets)
        return next((filled / folder / below for folder, below in places if below is not None), None)

    limits = Limits(int(file.stat().st_size * _UNPACKED) + _SPARE_BYTES)
    try:
        with shown_progress(f"unpacking {file.name}", "MB") as report:
            unpack(file, place, limits, report)
    except OSError as error:
        raise UserError(f"cannot unpack {file} ({error.strerror}); free some space, and run again") from error


def _check_count(dataset: Dataset, filled: Path, how: Preparation) -> None:
    folder = dataset.images_in(filled)
    count = len(list(folder.glob("*"))) if folder.is_dir() else 0
    if count == dataset.count:
        return
    fault = f"the archive {dataset.archive.file} holds {count} images of {dataset.name}, not {dataset.count}"
    if how.verified or count == 0:
        raise UserError(f"{fault}; give another --mirror")
    how.say(f"note: {fault}")


def _held_root(root: Path) -> AbstractContextManager[None]:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {root} ({error.strerror}); choose another --root") from error
    return held(root, f"the folder {root}")


def _check_disk(missing: Sequence[Dataset], how: Preparation) -> None:
    """Before hours of fetching, see that all of it has room: archives, images and memory maps."""
    archives = {one.archive: archive_file(how.root, one) for one in missing}
    images = sum(archive.num_bytes for archive in archives)
    # One archive at a time lies beside its images, unless all are kept.
    beside = images if how.keep_archives else max((archive.num_bytes for archive in archives), default=0)
    come = sum(bytes_so_far(file) for file in archives.values())
    maps = sum(int(_DECODED * one.archive.num_bytes) for one in missing if one.use == "training") if how.decode else 0
    cache = cache_folder(how.cache)
    needed = max(0, images + beside - come)
    if maps and cache.stat().st_dev == how.root.stat().st_dev:
        _check_room(how.root, needed + maps, "the data sets and their decoded photos")
        return
    _check_room(how.root, needed, "the data sets")
    _check_room(cache, maps, "the decoded photos")


def _check_room(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed and free < needed + _SPARE_BYTES:
        raise UserError(
            f"{what} need {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free; free some space, "
            "choose another --root or --cache, or name fewer data sets with --only"
        )
