"""Profile, EXIF, XMP, IPTC and resolution: what is carried from a photo to its enlargement, and what must not be.

An enlargement is stored upright, so the orientation is reset; its thumbnail would show the old size.
Tags that describe the old file's layout (strips, tiles, compression) are left behind: only those that
describe the photo are carried.
"""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from typing import Any

from PIL import ExifTags, Image, TiffImagePlugin

from anysr.imaging.picture import Metadata

_BASE = ExifTags.Base
_DESCRIPTIVE = (
    _BASE.ImageDescription,
    _BASE.Make,
    _BASE.Model,
    _BASE.Software,
    _BASE.DateTime,
    _BASE.Artist,
    _BASE.HostComputer,
    _BASE.Copyright,
    _BASE.Rating,
    _BASE.XPTitle,
    _BASE.XPComment,
    _BASE.XPAuthor,
    _BASE.XPKeywords,
    _BASE.XPSubject,
)
_RESOLUTION = (_BASE.XResolution, _BASE.YResolution, _BASE.ResolutionUnit)
_OWN = {*_DESCRIPTIVE, *_RESOLUTION, _BASE.Orientation}
_XMP_ORIENTATION = (b"tiff:Orientation",)
_XMP_SIZES = ((b"tiff:ImageLength", b"exif:PixelYDimension"), (b"tiff:ImageWidth", b"exif:PixelXDimension"))  # H, W
# A video, a depth map or a gain map behind the photo, which its enlargement does not have.
_XMP_OF_MORE = re.compile(rb"GCamera:M(icroV|otionP)|G(Depth|Image|Audio):|Container:Directory|hdrgm:")
_XMP_EXTENDED = re.compile(rb"\s*xmpNote:HasExtendedXMP\s*=\s*([\"']).*?\1|<xmpNote:HasExtendedXMP>.*?</[^>]*>", re.S)
_PIXEL_SIZE = (_BASE.ExifImageWidth, _BASE.ExifImageHeight)
_SPACES = {1: b"GRAY", 3: b"RGB ", 4: b"CMYK"}
_INCH, _CENTIMETRE = 2, 3
_MIN_PROFILE_BYTES = 128  # the header of an ICC profile
_IPTC_RESOURCE = 0x0404  # of Photoshop's, in whose segment of a JPEG IPTC's records lie
_MAX_DPI = 1e8  # what a PNG holds as pixels a metre
IFDS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)  # tables that EXIF has beside the photo's own
_INTEROP = ExifTags.IFD.Interop  # a table inside the first; for photos without a profile it can tell their colours

Tags = dict[int, Any]


def orientation_of(exif: Image.Exif) -> int:
    """EXIF orientation, 1 … 8; nonsense counts as upright."""
    value = exif.get(_BASE.Orientation, 1)
    return value if value in range(1, 9) else 1


def collect_metadata(exif: Image.Exif, info: dict[Any, Any]) -> tuple[Metadata, tuple[str, ...]]:
    """What an opened file says, from its EXIF and Pillow's ``info``, and what of it is lost, a line each.

    A TIFF's IPTC, which Pillow does not tell, is its ``info["iptc"]``.
    """
    icc, comment, lost = info.get("icc_profile"), info.get("comment"), list[str]()
    metadata = Metadata(
        icc if isinstance(icc, bytes) and len(icc) >= _MIN_PROFILE_BYTES else None,
        _carried_exif(exif, lost),
        _valid_dpi(info.get("dpi")) or _exif_dpi(exif),
        _carried_xmp(info.get("xmp"), lost),
        comment if isinstance(comment, bytes) and comment else None,
        _carried_iptc(info),
    )
    aspect = info.get("aspect")
    if isinstance(aspect, tuple) and len(set(aspect)) > 1:
        lost.append(f"the shape of its pixels, {aspect[1]} to {aspect[0]}, was left out")
    return metadata, tuple(lost)


def iptc_segment(iptc: bytes) -> bytes:
    """The segment of a JPEG that holds IPTC's records, with its marker."""
    resource = struct.pack(">4sHHI", b"8BIM", _IPTC_RESOURCE, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    content = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", 2 + len(content)) + content


def fitting_icc(icc: bytes | None, channels: int) -> bytes | None:
    """The profile if it is one for so many channels (1 grey, 3 RGB, 4 CMYK), else None."""
    return icc if icc is not None and icc[16:20] == _SPACES[channels] else None


def with_size(metadata: Metadata, size: tuple[int, int]) -> Metadata:
    """The metadata of the same photo at (H, W): EXIF and XMP state its size where they did before."""
    if metadata.xmp is not None:
        xmp = metadata.xmp
        for names, length in zip(_XMP_SIZES, size, strict=True):
            xmp = _with_number(xmp, names, length)
        metadata = replace(metadata, xmp=xmp)
    if metadata.exif is None:
        return metadata
    tables = read_tables(metadata.exif)
    for tag, length in zip(_PIXEL_SIZE, reversed(size), strict=True):
        if tag in tables[ExifTags.IFD.Exif]:
            tables[ExifTags.IFD.Exif][tag] = length
    return replace(metadata, exif=_to_bytes(tables))


def exif_with_dpi(metadata: Metadata) -> bytes | None:
    """The EXIF block with the resolution in it, for formats that have no other place for it."""
    if metadata.dpi is None:
        return metadata.exif
    tables = read_tables(metadata.exif)
    tables[0] |= dict(zip(_RESOLUTION, (*metadata.dpi, _INCH), strict=True))
    return _to_bytes(tables)


def shortened_exif(exif: bytes, max_bytes: int) -> tuple[bytes | None, int]:
    """The EXIF block without its longest tags, most often the camera maker's note, and how many went."""
    tables, num_left_out, block = read_tables(exif), 0, exif
    while len(block) > max_bytes:
        lengths = {(table, tag): _length(value) for table, tags in tables.items() for tag, value in tags.items()}
        table, tag = max(lengths, key=lengths.__getitem__)
        del tables[table][tag]
        num_left_out += 1
        if (shorter := _to_bytes(tables)) is None:
            return None, num_left_out
        block = shorter
    return block, num_left_out


def read_tables(exif: bytes | None) -> dict[int, Tags]:
    """The tags of an EXIF block that are carried, by table: 0 for the photo's own, and each of ``IFDS``."""
    return _tables(parse_exif(exif) if exif else Image.Exif())[0]


def parse_exif(block: bytes) -> Image.Exif:
    """A block of EXIF, or a whole TIFF file, as Pillow reads it."""
    exif = Image.Exif()
    exif.load(block)
    return exif


class _Text(str):
    """Text of EXIF, written byte for byte as Pillow read it."""

    __slots__ = ()

    def encode(self, encoding: str = "latin-1", errors: str = "replace") -> bytes:
        return super().encode("latin-1", "replace")


def _tables(exif: Image.Exif) -> tuple[dict[int, Tags], int]:
    """As :func:`read_tables`, and how many tags cannot be written."""
    found: dict[int, Tags] = {0: {tag: value for tag, value in exif.items() if tag in _OWN}}
    found |= {ifd: dict(exif.get_ifd(ifd)) for ifd in IFDS}
    inner = found[ExifTags.IFD.Exif]
    if inner.pop(_INTEROP, None) is not None and (interop := _interoperability(exif)):
        inner[_INTEROP] = interop
    kept = {table: _writable(tags, table) for table, tags in found.items()}
    return kept, sum(len(found[table]) - len(kept[table]) for table in found)


def _interoperability(exif: Image.Exif) -> Tags:
    try:
        return dict(exif.get_ifd(_INTEROP))
    except Exception:  # a table that begins nowhere is no reason to refuse a photo
        return {}


def _length(value: Any) -> int:
    return len(value) if isinstance(value, bytes | str | tuple | dict) else 1


def _writable(tags: Tags, table: int) -> Tags:
    """Without tags of the wrong type or range, as cameras and editors do write them."""
    kept: Tags = {}
    for tag, given in tags.items():
        value = _Text(given) if isinstance(given, str) else _writable(given, tag) if isinstance(given, dict) else given
        alone = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II", group=table or None)
        try:
            alone[tag] = value
            alone.tobytes()
        except Exception:  # Pillow raises whatever comes along
            continue
        kept[tag] = value
    return kept


def _carried_exif(exif: Image.Exif, lost: list[str]) -> bytes | None:
    tables, num_lost = _tables(exif)
    own: Tags = {tag: tables[0][tag] for tag in (*_DESCRIPTIVE, *_RESOLUTION) if tag in tables[0]}
    tables[0] = own
    if num_lost:
        lost.append(f"tags of its EXIF whose values are of another type than EXIF's were left out: {num_lost}")
    if not any(tag not in _RESOLUTION for tag in own) and not any(tables[ifd] for ifd in IFDS):
        return None
    if _BASE.Orientation in exif:
        own[_BASE.Orientation] = 1
    return _to_bytes(tables)


def _carried_xmp(packet: Any, lost: list[str]) -> bytes | None:
    """Upright; None as well for one that tells of what lies beside the photo in its file."""
    if not isinstance(packet, bytes) or not packet:
        return None
    if _XMP_OF_MORE.search(packet):
        lost.append("its XMP was left out: it tells of a video or a map beside the photo, which are not enlarged")
        return None
    packet, num_extended = _XMP_EXTENDED.subn(b"", packet.rstrip(b"\0"))
    if num_extended:
        lost.append("the part of its XMP that does not fit into one segment of a JPEG was left out")
    return _with_number(packet, _XMP_ORIENTATION, 1)


def _carried_iptc(info: dict[Any, Any]) -> bytes | None:
    resources = info.get("photoshop")
    iptc = resources.get(_IPTC_RESOURCE) if isinstance(resources, dict) else info.get("iptc")
    return iptc if isinstance(iptc, bytes) and iptc else None


def _with_number(xmp: bytes, names: tuple[bytes, ...], value: int) -> bytes:
    """With another number where these properties are, written as attributes or as elements."""
    name = b"|".join(names)
    return re.sub(rb"((?:%b)\s*=\s*[\"']|<(?:%b)>)\s*\d+" % (name, name), rb"\g<1>%d" % value, xmp)


def _to_bytes(tables: dict[int, Tags]) -> bytes | None:
    """Serialised; None if there is nothing."""
    exif = Image.Exif()
    for tag, value in tables[0].items():
        exif[tag] = value
    for ifd in IFDS:
        if tables[ifd]:
            exif[ifd] = tables[ifd]
    return exif.tobytes() if exif else None


def _exif_dpi(exif: Image.Exif) -> tuple[float, float] | None:
    per_inch = {_INCH: 1.0, _CENTIMETRE: 2.54}.get(exif.get(_BASE.ResolutionUnit, _INCH))
    if per_inch is None:
        return None
    try:
        return _valid_dpi(tuple(float(exif[tag]) * per_inch for tag in _RESOLUTION[:2]))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _valid_dpi(value: Any) -> tuple[float, float] | None:
    try:
        x, y = (float(v) for v in value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 1 <= x <= _MAX_DPI and 1 <= y <= _MAX_DPI else None
