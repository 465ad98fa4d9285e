"""Finding photos and decoding them to 8-bit RGB, whatever they were stored as."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from anysr.pillow_limit import without_pillow_limit
from pipeline.errors import UserError, one_line
from pipeline.storage.cache import local_folder
from pipeline.storage.places import Place

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
_IN_THE_BOX = Path(__file__).parent / "photos"
_OF_LR = re.compile(r"(^|_)LR(_|bic|$)")  # LR_bicubic, DIV2K_train_LR_bicubic, LRbicx2

# How far resampling may have taken floating-point images beyond white.
_OVERSHOOT = 1.01

Pixels = npt.NDArray[np.uint8]


def photo_folder(place: Place | None, split: str, cache: Path | None = None, cache_gb: float | None = None) -> Path:
    """The folder itself, this machine's copy of what lies on S3, or the photos in the box for None.

    Of a data set with its HR images in a folder ``HR`` it is that one, see :func:`hr_folder`.

    Args:
        place: a folder, or an S3 prefix.
        split: "train" or "validation", of the photos in the box.
        cache: where copies are kept; None is $ANYSR_CACHE, else the user's cache folder.
        cache_gb: limit of all copies; None is $ANYSR_CACHE_GB, else 100.
    """
    return _IN_THE_BOX / split if place is None else hr_folder(local_folder(place, cache_gb, cache).resolve())


def hr_folder(folder: Path) -> Path:
    """Where a data set's HR images lie: in its folder ``HR``, as jobs/prepare_data.py puts them, else in itself."""
    return folder / "HR" if (folder / "HR").is_dir() else folder


def list_photos(folder: Path) -> list[Path]:
    """Image files below a folder, in a fixed order.

    Folders of LR images beside others (``LR_bicubic``, ``…_LR_…``) are left out, and what is hidden.

    Raises:
        UserError: the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise UserError(
            f"no folder of photos at {folder}; set data.train / data.validation, or leave them out to use "
            "the photos in the box"
        )
    candidates = (
        p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not _is_hidden(p.relative_to(folder))
    )
    found = sorted(p for p in candidates if p.is_file())
    if not found:
        raise UserError(f"{folder} holds no image; files ending in {', '.join(SUFFIXES)} are read")
    return [path for path in found if not _is_lr(path.relative_to(folder))] or found


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_lr(path: Path) -> bool:
    return any(_OF_LR.search(part) for part in path.parent.parts)


def decode_rgb(path: Path, max_megapixels: float) -> Pixels:
    """One photo as (H, W, 3) uint8, upright.

    Grey, palette, CMYK and 16-bit images are converted; transparency is dropped.

    Raises:
        UserError: it is not an image, cut short, or larger than ``max_megapixels``.
    """
    try:
        with warnings.catch_warnings(action="ignore"), _opened(path) as image:  # about EXIF and palettes
            _check_size(path, image.size, max_megapixels)
            upright = ImageOps.exif_transpose(image)
            return np.asarray(_to_rgb(upright), dtype=np.uint8)
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise UserError(f"{path} is not a readable image ({one_line(error)}); replace it") from None


def _opened(path: Path) -> Image.Image:
    """Its header; the limit that replaces Pillow's own is :func:`_check_size`."""
    with without_pillow_limit():
        return Image.open(path)


def _check_size(path: Path, size: tuple[int, int], max_megapixels: float) -> None:
    if size[0] * size[1] > max_megapixels * 1e6:
        raise UserError(
            f"{path} has {size[0]} x {size[1]} pixels, more than data.max_megapixels = {max_megapixels:g}; shrink "
            "it or raise the limit"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow's own conversion clips 16-bit grey at 255.
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not numbers")
        top = _white(image.mode, values.max(initial=0))
        return Image.fromarray(np.clip(values / top * 255 + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _white(mode: str, largest: float) -> float:
    """What stands for white in a grey image of more than 8 bits; only 16 bits say so themselves."""
    if mode == "F":
        return next((top for top in (1.0, 255.0) if largest <= top * _OVERSHOOT), 65535.0)
    return 255.0 if mode == "I" and largest <= 255 else 65535.0
