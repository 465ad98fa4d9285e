"""Reading image files from anyone: every kind of pixel kept, nothing of a hostile file believed.

The header is checked before a pixel is decoded. Decoders raise whatever they like on damaged data;
it all becomes :class:`ImageError`.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image, UnidentifiedImageError

from anysr.imaging.jpeg import num_scans
from anysr.imaging.metadata import collect_metadata, fitting_icc, orientation_of
from anysr.imaging.picture import ImageError, Metadata, NoImageError, Picture, Pixels, check_pixels
from anysr.imaging.png import read_chunks
from anysr.imaging.tiff import num_pages, read_planes, tiff_exif, tiff_iptc
from anysr.pillow_limit import without_pillow_limit

MAX_MEGAPIXELS = 400.0
# Pillow calls a JPEG with previews or depth behind the photo, as phones write them, MPO.
_READ = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
NAMES_READ = "PNG, JPEG, WebP, TIFF, BMP and still GIF are read"
# A progressive JPEG of a few kilobytes can hold thousands of scans, each a pass over all pixels.
_MAX_JPEG_SCANS = 500
_PALETTES = ("P", "PA")
_FIRST_TURNED = 5  # EXIF orientations from here on swap the axes
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class _Decoded:
    colour: Pixels
    alpha: Pixels | None


def read_image(source: bytes | Path, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """Decode an image, upright, with its profile, EXIF and resolution.

    Grey stays grey, 16 bits stay 16, CMYK stays CMYK; palettes become RGB (or grey where all their
    colours are and no profile needs three channels); alpha multiplied into the colours is divided out.

    Raises:
        ImageError: no image, damaged or cut short, animated or of several pages, too many pixels, or
            colours that are not read (LAB, 32 bits a channel).
        OSError: the file cannot be read.
    """
    data = source if isinstance(source, bytes) else source.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd EXIF and palettes that are read all the same
            return _read(data, max_megapixels)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise NoImageError(f"not an image ({NAMES_READ})" if data else "an empty file") from None
    except MemoryError:
        raise ImageError("decoding it takes more memory than there is") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageError(f"damaged or cut short ({reason})") from None


def upright_size(source: bytes | Path, max_megapixels: float = MAX_MEGAPIXELS) -> tuple[int, int] | None:
    """(H, W) as shown, from the header; None for what is no image or cannot be read.

    Of more than ``max_megapixels`` it is (H, W) as stored: a PNG may tell its orientation behind its pixels, which
    are not decoded for it then.
    """
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        with warnings.catch_warnings(action="ignore"), _opened(data) as image:
            width, height = image.size
            if _is_turned_by_pillow(image) or width * height > max_megapixels * 1e6:
                return height, width
            return (width, height) if orientation_of(image.getexif()) >= _FIRST_TURNED else (height, width)
    except Exception:  # see above: decoders raise whatever they like
        return None


def _read(data: bytes, max_megapixels: float) -> Picture:
    if data.startswith(_TIFF_SIGNATURES):
        picture = _read_tiff(data, max_megapixels)
        if picture is not None:
            return picture
    with _opened(data) as image:
        _check_header(image, data, max_megapixels)
        if image.format == "PNG":
            image.load()  # what it says may lie behind its pixels
        orientation = orientation_of(image.getexif())
        more = {"iptc": tiff_iptc(data)} if image.format == "TIFF" else {}
        metadata, lost = collect_metadata(image.getexif(), image.info | more)
        is_16_bit = image.format == "PNG" and data[24] == 16
        decoded = _decode_png_16(data, image) if is_16_bit else _decode_8(image, data)
        if image.format == "PNG":
            colours, texts = read_chunks(data)
            metadata = replace(metadata, colours=colours, texts=texts)
        name = "JPEG" if image.format == "MPO" else str(image.format)
        picture = _picture(decoded, orientation, metadata, name, is_upright=_is_turned_by_pillow(image))
        is_lossless = image.format == "WEBP" and _is_lossless_webp(data)
        return replace(picture, notes=(*picture.notes, *lost), is_lossless=is_lossless)


def _is_turned_by_pillow(image: Image.Image) -> bool:
    """TIFFs are, their size too."""
    return image.format == "TIFF"


def _read_tiff(data: bytes, max_megapixels: float) -> Picture | None:
    planes = read_planes(data, max_megapixels)
    if planes is None:
        return None
    if num_pages(data) > 1:
        raise ImageError("a TIFF of several pages; save the one you mean as a file of its own")
    exif, info = tiff_exif(data)
    metadata, lost = collect_metadata(exif, info | {"iptc": tiff_iptc(data)})
    picture = _picture(_Decoded(*planes), orientation_of(exif), metadata, "TIFF")
    return replace(picture, notes=(*picture.notes, *lost))


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    with without_pillow_limit():
        image = Image.open(io.BytesIO(data), formats=_READ)
    with image:
        yield image


def _check_header(image: Image.Image, data: bytes, max_megapixels: float) -> None:
    check_pixels(image.size, max_megapixels)
    if image.format == "TIFF":
        if num_pages(data) > 1:
            raise ImageError("a TIFF of several pages; save the one you mean as a file of its own")
    elif image.format != "MPO" and getattr(image, "is_animated", False):
        raise ImageError(f"an animated {image.format}; still images are enlarged, so save its frames as files")
    if image.format in ("JPEG", "MPO") and _has_many_scans(data):
        raise ImageError(f"a JPEG of more than {_MAX_JPEG_SCANS} scans, made to keep decoders busy")


def _has_many_scans(data: bytes) -> bool:
    """Those of the first picture: a video behind it holds the bytes of their markers by chance."""
    may_have = data.count(b"\xff\xda") > _MAX_JPEG_SCANS  # the quick answer for almost all
    return may_have and num_scans(data, _MAX_JPEG_SCANS + 1) > _MAX_JPEG_SCANS


def _decode_8(image: Image.Image, data: bytes) -> _Decoded:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _Decoded(_decode_grey_16(image), None)
    if image.mode in ("LAB", "HSV"):
        raise ImageError(f"{image.mode} colours are not read; convert it to RGB first")
    if image.mode == "CMYK":
        return _Decoded(np.asarray(image), None)
    is_grey = image.mode in ("1", "L", "LA", "La")
    if image.format == "PNG" and image.mode == "L" and "transparency" in image.info:
        # Pillow spreads 2 and 4 bits over 0 ... 255, but not the transparent one among them.
        image.info["transparency"] *= 255 // (2 ** data[24] - 1)
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if is_grey:
        pixels = np.asarray(image.convert("LA" if has_alpha else "L"))
    else:
        pixels = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
    is_rgb = fitting_icc(image.info.get("icc_profile"), 3) is not None  # greys without their profile look otherwise
    return _split(pixels, may_be_grey=image.mode in _PALETTES and not is_rgb)


def _decode_grey_16(image: Image.Image) -> Pixels:
    if not image.mode.startswith("I;16"):
        raise ImageError("32 bits a channel are not read; save it with 8 or 16")
    return np.asarray(image).astype(np.uint16)[..., None]


def _decode_png_16(data: bytes, image: Image.Image) -> _Decoded:
    """Pillow drops the lower half of 16-bit colour."""
    pixels = np.asarray(imagecodecs.png_decode(data))
    decoded = _split(pixels if pixels.ndim == 3 else pixels[..., None], may_be_grey=False)
    key = image.info.get("transparency")
    if decoded.alpha is not None or key is None:
        return decoded
    hidden = (decoded.colour == np.asarray(key, dtype=np.uint16)).all(axis=-1)
    return _Decoded(decoded.colour, np.where(hidden, 0, 65_535).astype(np.uint16))


def _split(pixels: Pixels, may_be_grey: bool) -> _Decoded:
    """Colour and alpha of (H, W) or (H, W, 1 … 4)."""
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    has_alpha = pixels.shape[2] in (2, 4)
    colour, alpha = (pixels[..., :-1], pixels[..., -1]) if has_alpha else (pixels, None)
    if may_be_grey and bool((colour == colour[..., :1]).all()):
        colour = colour[..., :1]
    return _Decoded(colour, alpha)


def _picture(
    decoded: _Decoded, orientation: int, metadata: Metadata, name: str, *, is_upright: bool = False
) -> Picture:
    """With the turning that the orientation asks for, unless the planes are upright already."""
    colour, alpha = (_upright(plane, 1 if is_upright else orientation) for plane in (decoded.colour, decoded.alpha))
    assert colour is not None
    dpi = metadata.dpi[::-1] if metadata.dpi and orientation >= _FIRST_TURNED else metadata.dpi
    icc = fitting_icc(metadata.icc, colour.shape[2])
    notes = ("its colour profile is for another kind of colours and was left out",) if icc != metadata.icc else ()
    return Picture(colour, alpha, replace(metadata, icc=icc, dpi=dpi), name, notes)


def _is_lossless_webp(data: bytes) -> bool:
    """By the first of its chunks that holds pixels (RFC 9649)."""
    start = 12
    while start + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, start)
        if kind in (b"VP8L", b"VP8 "):
            return bool(kind == b"VP8L")
        start += 8 + length + length % 2
    return False


def _upright(plane: Pixels | None, orientation: int) -> Pixels | None:
    """EXIF's eight orientations as mirrorings and quarter turns."""
    if plane is None:
        return None
    if orientation == 1:
        return np.ascontiguousarray(plane)
    if orientation >= _FIRST_TURNED:
        plane = plane.swapaxes(0, 1)
    flip_rows = orientation in (3, 4, 7, 8)
    flip_columns = orientation in (2, 3, 6, 7)
    plane = plane[::-1] if flip_rows else plane
    return np.ascontiguousarray(plane[:, ::-1] if flip_columns else plane)
