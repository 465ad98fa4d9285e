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

from PIL import ExifTags, Image

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
_XMP_ORIENTATION = (b"tiff:Orientation",)
_XMP_SIZES = ((b"tiff:ImageLength", b"exif:PixelYDimension"), (b"tiff:ImageWidth", b"exif:PixelXDimension"))  # H, W
# A video, a depth map or a gain map behind the photo, which its enlargement does not have.
_XMP_OF_MORE = re.compile(rb"GCamera:M(icroV|otionP)|G(Depth|Image|Audio):|Container:Directory|hdrgm:")
_PIXEL_SIZE = (_BASE.ExifImageWidth, _BASE.ExifImageHeight)
_SPACES = {1: b"GRAY", 3: b"RGB ", 4: b"CMYK"}
_INCH, _CENTIMETRE = 2, 3
_MIN_PROFILE_BYTES = 128  # the header of an ICC profile
_IPTC_RESOURCE = 0x0404  # of Photoshop's, in whose segment of a JPEG IPTC's records lie
_MAX_EXIF_BYTES = 65_533 - 6  # what fits into a JPEG's segment


def orientation_of(exif: Image.Exif) -> int:
    """EXIF orientation, 1 … 8; nonsense counts as upright."""
    value = exif.get(_BASE.Orientation, 1)
    return value if value in range(1, 9) else 1


def collect_metadata(exif: Image.Exif, info: dict[Any, Any]) -> Metadata:
    """What an opened file says, from its EXIF and Pillow's ``info``."""
    icc, comment = info.get("icc_profile"), info.get("comment")
    return Metadata(
        icc if isinstance(icc, bytes) and len(icc) >= _MIN_PROFILE_BYTES else None,
        _carried_exif(exif),
        _valid_dpi(info.get("dpi")) or _exif_dpi(exif),
        _carried_xmp(info.get("xmp")),
        comment if isinstance(comment, bytes) and comment else None,
        _carried_iptc(info.get("photoshop")),
    )


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
    exif = parse_exif(metadata.exif)
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    for tag, length in zip(_PIXEL_SIZE, reversed(size), strict=True):
        if tag in inner:
            inner[tag] = length
    return replace(metadata, exif=_to_bytes(exif))


def exif_with_dpi(metadata: Metadata) -> bytes | None:
    """The EXIF block with the resolution in it, for formats that have no other place for it."""
    if metadata.dpi is None:
        return metadata.exif
    exif = parse_exif(metadata.exif) if metadata.exif else Image.Exif()
    exif[_BASE.XResolution], exif[_BASE.YResolution] = metadata.dpi
    exif[_BASE.ResolutionUnit] = _INCH
    return _to_bytes(exif)


def parse_exif(block: bytes) -> Image.Exif:
    """A block of EXIF, or a whole TIFF file, as Pillow reads it."""
    exif = Image.Exif()
    exif.load(block)
    return exif


def _carried_exif(exif: Image.Exif) -> bytes | None:
    carried = Image.Exif()
    for tag in (*_DESCRIPTIVE, *_RESOLUTION):
        if tag in exif:
            carried[tag] = exif[tag]
    for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        inner = dict(exif.get_ifd(ifd))
        inner.pop(ExifTags.IFD.Interop, None)
        if inner:
            carried.get_ifd(ifd).update(inner)
            carried[ifd] = carried.get_ifd(ifd)
    if not any(tag not in _RESOLUTION for tag in carried):
        return None
    if _BASE.Orientation in exif:
        carried[_BASE.Orientation] = 1
    return _to_bytes(carried)


def _carried_xmp(packet: Any) -> bytes | None:
    """Upright; None as well for one that tells of what lies beside the photo in its file."""
    if not isinstance(packet, bytes) or not packet or _XMP_OF_MORE.search(packet):
        return None
    return _with_number(packet.rstrip(b"\0"), _XMP_ORIENTATION, 1)


def _carried_iptc(resources: Any) -> bytes | None:
    iptc = resources.get(_IPTC_RESOURCE) if isinstance(resources, dict) else None
    return iptc if isinstance(iptc, bytes) and iptc else None


def _with_number(xmp: bytes, names: tuple[bytes, ...], value: int) -> bytes:
    """With another number where these properties are, written as attributes or as elements."""
    name = b"|".join(names)
    return re.sub(rb"((?:%b)\s*=\s*[\"']|<(?:%b)>)\s*\d+" % (name, name), rb"\g<1>%d" % value, xmp)


def _to_bytes(exif: Image.Exif) -> bytes | None:
    """Serialised; without the maker's private note where the block would not fit; None if it cannot be."""
    for last_try in (False, True):
        try:
            block = exif.tobytes()
        except Exception:  # tags of the wrong type or range, as cameras and editors do write them
            block = b""
        if 0 < len(block) <= _MAX_EXIF_BYTES:
            return block
        if not last_try:
            exif.get_ifd(ExifTags.IFD.Exif).pop(_BASE.MakerNote, None)
    return None


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
    return (x, y) if 1 <= x <= 65_535 and 1 <= y <= 65_535 else None
