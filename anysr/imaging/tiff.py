"""TIFF of 8 and 16 bits a channel.

Pillow reads no 16-bit colour, nothing beside the inks of CMYK and little beside grey, and writes no EXIF beside
compression.
"""

from __future__ import annotations

import io
import logging
import struct

import numpy as np
import tifffile
from PIL import Image, TiffImagePlugin

from anysr.imaging.metadata import IFDS, parse_exif, read_tables
from anysr.imaging.picture import ImageError, Metadata, Picture, Pixels, check_pixels

# Its remarks on odd files are for developers; what cannot be read raises.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
logging.getLogger("tifffile").propagate = False

_BYTE, _ASCII, _LONG, _UNDEFINED = 1, 2, 4, 7
_MAX_CHANNELS = 5  # CMYK and alpha
_REDUCED = 1  # NewSubfileType: a smaller version of another page
_BIG_HEADS = (b"II+\0", b"MM\0+")  # BigTIFF
_BIG_ENDIAN_BIG_HEAD = b"MM\0+"
_ICC, _XMP, _IPTC = 34_675, 700, 33_723
_BIG_TAGS = {"Orientation", "XResolution", "YResolution", "ResolutionUnit", "ImageDescription", "Make", "Model",
             "Software", "DateTime", "Artist", "HostComputer", "Copyright"}  # fmt: skip


def read_planes(data: bytes, max_megapixels: float) -> tuple[Pixels, Pixels | None] | None:
    """Colour and alpha of a TIFF as it is stored; None for what Pillow reads.

    Raises:
        ImageError: more pixels than allowed, or a kind of colours or numbers that is not read.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        assert isinstance(page, tifffile.TiffPage)
        _check_samples(page)
        if not _is_ours(page, data):
            return None
        if page.samplesperpixel > _MAX_CHANNELS:
            raise ImageError(f"a TIFF of {page.samplesperpixel} channels")
        if page.imagedepth > 1:
            raise ImageError("a TIFF of a volume; save the slice you mean as a file of its own")
        check_pixels((page.imagewidth, page.imagelength), max_megapixels)
        pixels = np.asarray(page.asarray())
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1:
            pixels = np.moveaxis(pixels, 0, -1)
        return _by_photometric(pixels.reshape(page.imagelength, page.imagewidth, -1), page)


def tiff_exif(data: bytes) -> tuple[Image.Exif, dict[str, object]]:
    """EXIF of a TIFF, and its colour profile and XMP by Pillow's names of them.

    Of a BigTIFF, which Pillow's EXIF is not for, what describes the photo.
    """
    if not data.startswith(_BIG_HEADS):
        exif = parse_exif(data)
        return exif, {"icc_profile": exif.get(_ICC), "xmp": exif.get(_XMP)}
    exif = Image.Exif()
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages.first.tags
        for tag in tags:
            if tag.name in _BIG_TAGS:
                value = tag.value
                exif[tag.code] = TiffImagePlugin.IFDRational(*value) if isinstance(value, tuple) else value
        return exif, {"icc_profile": tags.valueof(_ICC), "xmp": tags.valueof(_XMP)}


def tiff_iptc(data: bytes) -> bytes | None:
    """The records of a TIFF's IPTC as they are stored; Pillow gives four bytes where they are told as numbers."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag = file.pages.first.tags.get(_IPTC)
        return data[tag.valueoffset : tag.valueoffset + tag.valuebytecount] if tag else None


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


def _check_samples(page: tifffile.TiffPage) -> None:
    """Pillow reads others as if they filled 8 or 16 bits."""
    signed = page.sampleformat != tifffile.SAMPLEFORMAT.UINT
    if signed or page.bitspersample not in (1, 2, 4, 8, 16):
        kind = "signed or floating-point numbers of " if signed else ""
        raise ImageError(f"{kind}{page.bitspersample} bits a channel are not read; save it with 8 or 16")


def _is_ours(page: tifffile.TiffPage, data: bytes) -> bool:
    if page.bitspersample == 16:
        return page.dtype == np.uint16
    if page.bitspersample != 8 or page.dtype != np.uint8:
        return False
    is_split = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    has_more = bool(page.extrasamples) and (is_split or page.photometric != tifffile.PHOTOMETRIC.RGB)
    return has_more or data.startswith(_BIG_ENDIAN_BIG_HEAD)


def _by_photometric(pixels: Pixels, page: tifffile.TiffPage) -> tuple[Pixels, Pixels | None]:
    kinds = tifffile.PHOTOMETRIC
    known: dict[int, int] = {kinds.MINISBLACK: 1, kinds.MINISWHITE: 1, kinds.RGB: 3, kinds.SEPARATED: 4}
    channels = known.get(page.photometric)
    if channels is None or pixels.shape[2] < channels:
        raise ImageError(f"a TIFF with colours of kind {page.photometric!r}; grey, RGB and CMYK are read")
    colour = pixels[..., :channels]
    if page.photometric == kinds.MINISWHITE:
        colour = np.iinfo(pixels.dtype).max - colour
    kind = page.extrasamples[0] if page.extrasamples else tifffile.EXTRASAMPLE.UNSPECIFIED
    if pixels.shape[2] == channels or kind == tifffile.EXTRASAMPLE.UNSPECIFIED:
        return colour, None  # what else a file may hold, such as a scanner's infrared, hides nothing
    alpha = pixels[..., channels]
    return (_unassociated(colour, alpha) if kind == tifffile.EXTRASAMPLE.ASSOCALPHA else colour), alpha


def _unassociated(colour: Pixels, alpha: Pixels) -> Pixels:
    """Colours stored as multiplied by alpha, divided by it again."""
    peak = int(np.iinfo(colour.dtype).max)
    divided = colour.astype(np.float64) * peak / np.maximum(alpha, 1)[..., None]
    return np.minimum(divided + 0.5, peak).astype(colour.dtype)


def _extra_tags(metadata: Metadata) -> list[tuple[int, int, int | None, object, bool]]:
    tags: list[tuple[int, int, int | None, object, bool]] = []
    if metadata.xmp is not None:
        tags.append((_XMP, _BYTE, len(metadata.xmp), metadata.xmp, True))
    if metadata.iptc is not None:
        tags.append((_IPTC, _UNDEFINED, len(metadata.iptc), metadata.iptc, True))
    tables = read_tables(metadata.exif)
    texts = {tag: value for tag, value in tables[0].items() if isinstance(value, str)}
    tags += [(tag, _ASCII, None, text.encode() + b"\0", True) for tag, text in texts.items()]
    # tifffile writes no EXIF. A number just below keeps the place in the sorted list of tags.
    return tags + [(ifd - 1, _LONG, 1, 0, True) for ifd in IFDS if tables[ifd]]


def _with_ifds(data: bytes, metadata: Metadata) -> bytes:
    """The file with EXIF's inner tables behind it, where the placeholders of :func:`_extra_tags` point."""
    if metadata.exif is None:
        return data
    tables, whole = read_tables(metadata.exif), bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        places = {tag.code: (tag.offset, tag.valueoffset) for tag in file.pages.first.tags}
    for ifd in IFDS:
        if ifd - 1 not in places:
            continue
        table = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II", group=ifd)
        for tag, value in tables[ifd].items():
            table[tag] = value
        whole += b"\0" * (len(whole) % 2)
        entry, pointer = places[ifd - 1]
        struct.pack_into("<H", whole, entry, ifd)
        struct.pack_into("<I", whole, pointer, len(whole))
        whole += table.tobytes(len(whole))
    return bytes(whole)
