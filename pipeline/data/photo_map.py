"""Photos decoded once into a flat uint8 file that every worker of a node maps into its memory."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.config import DataConfig
from pipeline.data.photos import Pixels, decode_rgb, list_photos
from pipeline.errors import UserError, one_line
from pipeline.storage.cache import cache_root

_VERSION = "1"


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
        names: file names relative to the folder.
        fingerprint: hash of the photos' names and contents.
        skipped: one line per photo left out under ``on_error=skip``.
    """

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        self.fingerprint: str = index["fingerprint"]
        self.skipped: list[str] = index["skipped"]
        self._entries = [Entry(**entry) for entry in index["entries"]]
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


def open_photo_map(photos: Path, config: DataConfig, min_side_px: int = 1) -> PhotoMap:
    """Decode a folder of photos, or find them decoded.

    Safe to call from several processes at once: one decodes, the others wait. A decoding that was
    cut short is done again.

    Raises:
        UserError: no photos; or, unless ``config.on_error`` is "skip", one that cannot be decoded, is
            larger than ``config.max_megapixels`` or smaller than ``min_side_px`` on a side.
    """
    paths = list_photos(photos)
    fingerprint = _fingerprint(photos, paths)
    root = cache_folder(config.cache)
    rules = f"{_VERSION} {fingerprint} {min_side_px} {config.max_megapixels} {config.on_error}"
    target = root / hashlib.sha256(rules.encode()).hexdigest()[:24]
    try:
        with _lock(target.with_suffix(".lock")):
            if not (target / "index.json").is_file():
                decode = partial(_usable, min_side_px=min_side_px, max_megapixels=config.max_megapixels)
                _build(target, photos, paths, fingerprint, decode, config.on_error)
    except OSError as error:
        shutil.rmtree(target.with_suffix(".partial"), ignore_errors=True)
        raise UserError(
            f"cannot keep decoded photos in {root} ({error.strerror}); free some space there, or set data.cache or "
            "ANYSR_CACHE"
        ) from error
    return PhotoMap(target)


def cache_folder(configured: Path | None) -> Path:
    """The folder for decoded photos, made if need be."""
    root = cache_root(configured) / "photos"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the cache folder {root} ({error.strerror}); set data.cache or ANYSR_CACHE"
        ) from error
    return root


def _usable(path: Path, min_side_px: int, max_megapixels: float) -> Pixels:
    pixels = decode_rgb(path, max_megapixels)
    height, width, _ = pixels.shape
    if min(height, width) < min_side_px:
        raise UserError(
            f"{path} is {width} x {height}, smaller than the {min_side_px} px that the largest crop needs; lower "
            "data.lr_crop_px or the largest scale, remove it, or set data.on_error=skip"
        )
    return pixels


def _build(
    target: Path, root: Path, paths: list[Path], fingerprint: str, decode: Callable[[Path], Pixels], on_error: str
) -> None:
    unfinished = target.with_suffix(".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    entries: list[Entry] = []
    skipped: list[str] = []
    offset = 0
    with (unfinished / "pixels.u8").open("wb") as file:
        for path in paths:
            try:
                pixels = decode(path)
            except UserError as error:
                if on_error != "skip":
                    raise
                skipped.append(one_line(error))
                continue
            file.write(pixels.tobytes())
            entries.append(Entry(path.relative_to(root).as_posix(), offset, *pixels.shape[:2]))
            offset += pixels.size
    if not entries:
        raise UserError(f"none of the {len(paths)} images in {root} can be used; the first: {skipped[0]}")
    index = {"fingerprint": fingerprint, "skipped": skipped, "entries": [asdict(entry) for entry in entries]}
    (unfinished / "index.json").write_text(json.dumps(index))
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)


def _fingerprint(root: Path, paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "blake2b").hexdigest()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        digest.update(os.fsencode(path.relative_to(root)) + f" {content}\n".encode())
    return digest.hexdigest()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
