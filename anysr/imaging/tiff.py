"""TIFF of 8 and 16 bits a channel: Pillow reads no 16-bit colour, and writes no EXIF beside compression."""

from __future__ import annotations

import io
import logging
import struct

import numpy as np
import tifffile
from PIL import ExifTags, TiffImagePlugin

from anysr.imaging.metadata import parse_exif
from anysr.imaging.picture import ImageError, Metadata, Picture, Pixels, check_pixels

# Its remarks on odd files are for developers; what cannot be read raises.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
logging.getLogger("tifffile").propagate = False

_ASCII, _LONG = 2, 4
_IFDS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_MAX_CHANNELS = 5  # CMYK and alpha
_REDUCED = 1  # NewSubfileType: a smaller version of another page


def read_16_bit(data: bytes, max_megapixels: float) -> tuple[Pixels, Pixels | None] | None:
    """Colour and alpha of a TIFF of 16-bit whole numbers; None for other depths.

    Raises:
        ImageError: several pages, more pixels than allowed, or a kind of colour that is not read.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        assert isinstance(page, tifffile.TiffPage)
        if page.bitspersample != 16 or page.dtype != np.uint16:
            return None
        if page.samplesperpixel > _MAX_CHANNELS:
            raise ImageError(f"a TIFF of {page.samplesperpixel} channels")
        check_pixels((page.imagewidth, page.imagelength), max_megapixels)
        pixels = np.asarray(page.asarray())
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1:
            pixels = np.moveaxis(pixels, 0, -1)
        return _by_photometric(pixels.reshape(page.imagelength, page.imagewidth, -1), page)


def num_pages(data: bytes) -> int:
    """Pages of a TIFF without those that are smaller versions of another."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        pages = [file.pages[i] for i in range(min(len(file.pages), 8))]
        return sum(not int(page.subfiletype) & _REDUCED for page in pages if isinstance(page, tifffile.TiffPage))


def encode_tiff(picture: Picture) -> bytes:
    """A TIFF of one page, compressed without loss."""
    planes = picture.colour if picture.alpha is None else np.dstack([picture.colour, picture.alpha])
    metadata, channels = picture.metadata, picture.colour.shape[2]
    out = io.BytesIO()
    tifffile.imwrite(
        out,
        planes[..., 0] if planes.shape[2] == 1 else planes,
        byteorder="<",
        photometric={1: "minisblack", 3: "rgb", 4: "separated"}[channels],
        planarconfig="contig" if planes.shape[2] > 1 else None,
        extrasamples=None if picture.alpha is None else ["unassalpha"],
        compression="zlib",
        predictor=True,
        rowsperstrip=max(1, 2**20 // (planes[0].nbytes or 1)),
        resolution=metadata.dpi,
        resolutionunit="inch" if metadata.dpi else None,
        iccprofile=metadata.icc,
        extratags=_extra_tags(metadata),
        metadata=None,
        software=False,
    )
    return _with_ifds(out.getvalue(), metadata)


def _by_photometric(pixels: Pixels, page: tifffile.TiffPage) -> tuple[Pixels, Pixels | None]:
    kinds = tifffile.PHOTOMETRIC
    known: dict[int, int] = {kinds.MINISBLACK: 1, kinds.MINISWHITE: 1, kinds.RGB: 3, kinds.SEPARATED: 4}
    channels = known.get(page.photometric)
    if channels is None or pixels.shape[2] < channels:
        raise ImageError(f"16-bit TIFF with colours of kind {page.photometric!r}; grey, RGB and CMYK are read")
    colour = pixels[..., :channels]
    if page.photometric == kinds.MINISWHITE:
        colour = 65_535 - colour
    if pixels.shape[2] == channels or not page.extrasamples:
        return colour, None
    alpha = pixels[..., channels]
    associated = page.extrasamples[0] == tifffile.EXTRASAMPLE.ASSOCALPHA
    return (_unassociated(colour, alpha) if associated else colour), alpha


def _unassociated(colour: Pixels, alpha: Pixels) -> Pixels:
    """Colours stored as multiplied by alpha, divided by it again."""
    divided = colour.astype(np.float64) * 65_535 / np.maximum(alpha, 1)[..., None]
    return np.minimum(divided + 0.5, 65_535).astype(np.uint16)


def _extra_tags(metadata: Metadata) -> list[tuple[int, int, int | None, object, bool]]:
    if metadata.exif is None:
        return []
    exif = parse_exif(metadata.exif)
    texts = {tag: value for tag, value in exif.items() if isinstance(value, str)}
    tags: list[tuple[int, int, int | None, object, bool]] = [
        (tag, _ASCII, None, text.encode("utf-8", "replace") + b"\0", True) for tag, text in texts.items()
    ]
    # tifffile writes no EXIF. A number just below keeps the place in the sorted list of tags.
    return tags + [(ifd - 1, _LONG, 1, 0, True) for ifd in _IFDS if exif.get_ifd(ifd)]


def _with_ifds(data: bytes, metadata: Metadata) -> bytes:
    """The file with EXIF's inner tables behind it, where the placeholders of :func:`_extra_tags` point."""
    if metadata.exif is None:
        return data
    exif, whole = parse_exif(metadata.exif), bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        places = {tag.code: (tag.offset, tag.valueoffset) for tag in file.pages.first.tags}
    for ifd in _IFDS:
        if ifd - 1 not in places:
            continue
        table = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II", group=ifd)
        for tag, value in exif.get_ifd(ifd).items():
            table[tag] = value
        whole += b"\0" * (len(whole) % 2)
        entry, pointer = places[ifd - 1]
        struct.pack_into("<H", whole, entry, ifd)
        struct.pack_into("<I", whole, pointer, len(whole))
        whole += table.tobytes(len(whole))
    return bytes(whole)
