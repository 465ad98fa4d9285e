"""Photos decoded once into a flat uint8 file that every worker of a node maps into its memory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.config import DataConfig
from pipeline.data.photo_cache import INDEX, cache_folder, locked, note_use
from pipeline.data.photos import Pixels, decode_rgb, list_photos
from pipeline.errors import UserError, one_line

_VERSION = "3"
_OR_SKIP = ", or set data.on_error=skip"
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Entry:
    """Where one photo lies in the map."""

    name: str
    offset: int
    height: int
    width: int


class PhotoMap:
    """Decoded photos by index.

    Attributes:
        photos: the folder they were decoded from.
        names: file names relative to that folder.
        digests: of the files' contents, by name, those of photos left out among them.
        fingerprint: hash of the photos' names and contents.
        skipped: one line per photo left out under ``on_error=skip``.
    """

    def __init__(
        self, folder: Path, photos: Path, digests: Mapping[str, str], min_side_px: int, sets_side: str
    ) -> None:
        index = json.loads((folder / INDEX).read_text())
        self.photos, self.digests = photos, digests
        self.fingerprint: str = index["fingerprint"]
        entries = [Entry(**entry) for entry in index["entries"]]
        small = [entry for entry in entries if min(entry.height, entry.width) < min_side_px]
        self.skipped: list[str] = [*index["unusable"], *(_too_small(entry, min_side_px, sets_side) for entry in small)]
        self._entries = [entry for entry in entries if min(entry.height, entry.width) >= min_side_px]
        # A plain view: slicing the memmap type itself costs microseconds each time.
        self._pixels = np.asarray(np.memmap(folder / "pixels.u8", dtype=np.uint8, mode="r"))
        self.names = [entry.name for entry in self._entries]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Pixels:
        """(H, W, 3) uint8, a read-only view."""
        entry = self._entries[index]
        end = entry.offset + entry.height * entry.width * 3
        return self._pixels[entry.offset : end].reshape(entry.height, entry.width, 3)


def open_photo_map(
    photos: Path,
    config: DataConfig,
    min_side_px: int = 1,
    report: Report = lambda done, total: None,
    sets_side: str = "data.lr_crop_px or the largest scale",
) -> PhotoMap:
    """Decode a folder of photos, or find them decoded.

    Safe to call from several processes at once: one decodes, the others wait. A decoding that was
    cut short is done again.

    Args:
        photos: the folder.
        config: where decoded photos are kept, and what happens to those that cannot be used.
        min_side_px: smaller photos cannot be used.
        report: told how many photos are decoded, and of how many.
        sets_side: what of the configuration decides on ``min_side_px``.

    Raises:
        UserError: no photos; or, unless ``config.on_error`` is "skip", one that cannot be decoded, is
            larger than ``config.max_megapixels`` or smaller than ``min_side_px`` on a side.
    """
    paths = list_photos(photos)
    digests = {path.relative_to(photos).as_posix(): _digest(path) for path in paths}
    fingerprint = _fingerprint(digests)
    root = cache_folder(config.cache)
    key = hashlib.sha256(f"{_VERSION} {fingerprint} {config.max_megapixels}".encode())
    target = root / key.hexdigest()[:24]
    try:
        with locked(target) as partial:
            if not (target / INDEX).is_file():
                _build(partial, photos, paths, fingerprint, config, report)
                shutil.rmtree(target, ignore_errors=True)
                partial.rename(target)
            note_use(target)
            found = PhotoMap(target, photos, digests, min_side_px, sets_side)
    except OSError as error:
        shutil.rmtree(target.with_suffix(".partial"), ignore_errors=True)
        raise UserError(
            f"cannot keep decoded photos in {root} ({error.strerror}); free some space there "
            "(jobs/prepare_data.py --prune-cache), or set data.cache or ANYSR_CACHE"
        ) from error
    if found.skipped and config.on_error != "skip":
        raise UserError(f"{photos}: {found.skipped[0]}{_OR_SKIP}")
    if not len(found):
        raise UserError(f"none of the {len(paths)} images in {photos} can be used; the first: {found.skipped[0]}")
    return found


def trained_on(train: PhotoMap, validation: PhotoMap) -> str | None:
    """A warning where photos to validate on are, byte for byte, among those to train on."""
    seen = {train.digests[name] for name in train.names}
    both = [name for name in validation.names if validation.digests[name] in seen]
    if not both:
        return None
    shown = ", ".join(both[:3]) + (", …" if len(both) > 3 else "")
    return (
        f"warning: {len(both)} of the {len(validation)} photos to validate on are trained on, too ({shown}); their "
        "scores say little of other photos: set data.validation to photos of their own"
    )


def _too_small(entry: Entry, min_side_px: int, sets_side: str) -> str:
    return (
        f"{entry.name} is {entry.width} x {entry.height}, smaller than the {min_side_px} px that are needed of a side; "
        f"lower {sets_side} or remove it"
    )


def _build(folder: Path, root: Path, paths: list[Path], fingerprint: str, config: DataConfig, report: Report) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    entries: list[Entry] = []
    unusable: list[str] = []
    offset = 0
    with (folder / "pixels.u8").open("wb") as file:
        for done, path in enumerate(paths):
            report(done, len(paths))
            try:
                pixels = decode_rgb(path, config.max_megapixels)
            except UserError as error:
                if config.on_error != "skip":
                    raise UserError(f"{error}{_OR_SKIP}") from None
                unusable.append(one_line(error))
                continue
            file.write(pixels.tobytes())
            entries.append(Entry(path.relative_to(root).as_posix(), offset, *pixels.shape[:2]))
            offset += pixels.size
    if not entries:
        raise UserError(f"none of the {len(paths)} images in {root} can be used; the first: {unusable[0]}")
    index = {"fingerprint": fingerprint, "unusable": unusable, "entries": [asdict(entry) for entry in entries]}
    (folder / INDEX).write_text(json.dumps(index))


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _fingerprint(digests: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name, content in digests.items():
        digest.update(os.fsencode(name) + f" {content}\n".encode())
    return digest.hexdigest()
