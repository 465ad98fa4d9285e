"""Writing pictures: what a format cannot hold is converted, and a note says so."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image, ImageCms

from anysr.files import write_whole
from anysr.imaging.metadata import exif_with_dpi, fitting_icc, iptc_segment, shortened_exif, with_size
from anysr.imaging.picture import Metadata, Picture, Pixels, to_8_bits
from anysr.imaging.png import are_srgb, with_chunks
from anysr.imaging.tiff import encode_tiff

# Bytes that fit into a segment, and what its header holds.
_MAX_JPEG_XMP, _MAX_JPEG_COMMENT, _MAX_JPEG_IPTC, _MAX_JPEG_EXIF = 65_533 - 29, 65_533, 65_533 - 27, 65_533 - 6
_MAX_JPEG_DPI = 65_535
_QUALITY = 95


@dataclass(frozen=True)
class Format:
    """A file format that pictures are written in.

    Attributes:
        name: as Pillow calls it.
        suffixes: of file names; the first is the usual one.
        max_side: longest side in pixels, None for no limit that matters.
        channels: of colour that it holds, 1 grey, 3 RGB, 4 CMYK.
        has_alpha: holds transparency.
        has_16_bit: holds 16 bits a channel.
    """

    name: str
    suffixes: tuple[str, ...]
    max_side: int | None
    channels: tuple[int, ...]
    has_alpha: bool
    has_16_bit: bool

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise ValueError where (H, W) is more than the format holds."""
        if self.max_side is not None and max(size) > self.max_side:
            raise ValueError(
                f"{self.name} holds at most {self.max_side} pixels a side, not {size[1]} x {size[0]}; write PNG or TIFF"
            )


FORMATS = {
    spec.name: spec
    for spec in (
        Format("PNG", (".png",), None, (1, 3), True, True),
        Format("JPEG", (".jpg", ".jpeg"), 65_500, (1, 3, 4), False, False),
        Format("WEBP", (".webp",), 16_383, (3,), True, False),
        Format("TIFF", (".tif", ".tiff"), None, (1, 3, 4), True, True),
    )
}


def format_of(path: Path) -> Format:
    """The format that a file name asks for.

    Raises:
        ValueError: none does.
    """
    for spec in FORMATS.values():
        if path.suffix.lower() in spec.suffixes:
            return spec
    endings = ", ".join(suffix for spec in FORMATS.values() for suffix in spec.suffixes)
    raise ValueError(f"the output's name must end in one of {endings}, got {path.name!r}")


def write_image(picture: Picture, path: Path, quality: int | None = None) -> Picture:
    """Write in the format of the name, complete or not at all; see :func:`encode_image`."""
    data, written = encode_image(picture, format_of(path), quality)
    write_whole(path, data)
    return written


def encode_image(picture: Picture, spec: Format, quality: int | None = None) -> tuple[bytes, Picture]:
    """The bytes of a file, and the picture as it is in there with notes of what was lost.

    Args:
        picture: what to write.
        spec: one of :data:`FORMATS`.
        quality: 1 … 100 of JPEG and WebP; WebP is lossless at 100. None is 95, and what was a lossless WebP
            stays one.

    Raises:
        ValueError: more pixels a side than the format holds, or a quality out of range.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality must be from 1 to 100, got {quality}")
    spec.check_size(picture.size)
    fitted = _fitted(picture, spec)
    if spec.name == "JPEG":
        return _encode_jpeg(fitted, quality or _QUALITY), fitted
    if spec.name == "WEBP":
        return _encode_webp(fitted, quality), fitted
    return (_encode_png(fitted) if spec.name == "PNG" else encode_tiff(fitted)), fitted


def _fitted(picture: Picture, spec: Format) -> Picture:
    """Converted to what the format holds, with a note for each loss."""
    notes = list(picture.notes)
    if picture.peak > 255 and not (spec.has_16_bit and picture.colour.shape[2] in spec.channels):
        notes.append(f"16 bits became 8: {spec.name} holds no more")
        picture = replace(picture, colour=to_8_bits(picture.colour), alpha=_to_8_bits_or_none(picture.alpha))
    if picture.colour.shape[2] == 4 and 4 not in spec.channels:
        notes.append(f"CMYK became sRGB: {spec.name} holds no inks")
        picture = _to_srgb(picture)
    if picture.alpha is not None and not spec.has_alpha:
        if (picture.alpha < picture.peak).any():
            notes.append(f"transparency was laid on white: {spec.name} holds none")
            picture = replace(picture, colour=_on_white(picture))
        picture = replace(picture, alpha=None)
    if picture.colour.shape[2] == 1 and 1 not in spec.channels:
        picture = replace(picture, colour=np.repeat(picture.colour, 3, axis=2))
    metadata = with_size(picture.metadata, picture.size)
    icc = fitting_icc(metadata.icc, picture.colour.shape[2])
    if icc != metadata.icc:
        notes.append(f"the profile of its colours was left out: {spec.name} holds them as another kind")
    metadata, lost = _fitted_metadata(replace(metadata, icc=icc), spec)
    return replace(picture, metadata=metadata, format=spec.name, notes=(*notes, *lost))


def _fitted_metadata(metadata: Metadata, spec: Format) -> tuple[Metadata, list[str]]:
    """Without what the format cannot hold, and a note for each loss."""
    lost = list[str]()
    if spec.name == "JPEG":
        metadata = _fitted_to_jpeg(metadata, lost)
    elif metadata.comment is not None:
        lost.append(f"its comment was left out: {spec.name} holds none")
        metadata = replace(metadata, comment=None)
    if metadata.iptc is not None and spec.name not in ("JPEG", "TIFF"):
        lost.append(f"its IPTC was left out: {spec.name} is written with none")
        metadata = replace(metadata, iptc=None)
    if spec.name != "PNG":
        if metadata.texts:
            lost.append(f"its texts were left out: {spec.name} holds none of PNG's")
        if metadata.icc is None and not are_srgb(metadata.colours):
            lost.append(f"its gamma and primaries were left out, colours may look different: {spec.name} holds none")
        metadata = replace(metadata, texts=(), colours=())
    return metadata, lost


def _fitted_to_jpeg(metadata: Metadata, lost: list[str]) -> Metadata:
    """Without what is too long or too large for it."""
    if metadata.exif is not None and len(metadata.exif) > _MAX_JPEG_EXIF:
        exif, num_left_out = shortened_exif(metadata.exif, _MAX_JPEG_EXIF)
        lost.append(f"the longest tags of its EXIF, which is too long for JPEG, were left out: {num_left_out}")
        metadata = replace(metadata, exif=exif)
    if len(metadata.xmp or b"") > _MAX_JPEG_XMP:
        lost.append("its XMP was left out: it is too long for JPEG")
        metadata = replace(metadata, xmp=None)
    if len(metadata.comment or b"") > _MAX_JPEG_COMMENT:
        lost.append("its comment was left out: JPEG holds none so long")
        metadata = replace(metadata, comment=None)
    if len(metadata.iptc or b"") > _MAX_JPEG_IPTC:
        lost.append("its IPTC was left out: JPEG is written with none so long")
        metadata = replace(metadata, iptc=None)
    if metadata.dpi is not None and max(metadata.dpi) > _MAX_JPEG_DPI:
        lost.append(f"its {max(metadata.dpi):g} pixels per inch were left out: JPEG holds at most {_MAX_JPEG_DPI}")
        metadata = replace(metadata, dpi=None)
    return metadata


def _to_8_bits_or_none(values: Pixels | None) -> Pixels | None:
    return None if values is None else to_8_bits(values)


def _on_white(picture: Picture) -> Pixels:
    assert picture.alpha is not None
    peak, white = picture.peak, 0 if picture.colour.shape[2] == 4 else picture.peak
    colour, alpha = picture.colour.astype(np.int64), picture.alpha.astype(np.int64)[..., None]
    return ((colour * alpha + white * (peak - alpha) + peak // 2) // peak).astype(picture.colour.dtype)


def _to_srgb(picture: Picture) -> Picture:
    """By the inks' own profile where there is a good one, else by the plain formula."""
    image, icc = Image.fromarray(picture.colour, "CMYK"), picture.metadata.icc
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    converted, target = None, None
    if icc is not None:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
            target = _undated(srgb.tobytes())
        except (ImageCms.PyCMSError, OSError):
            converted = None
    pixels = np.asarray(converted if converted is not None else image.convert("RGB"))
    return replace(picture, colour=pixels, metadata=replace(picture.metadata, icc=target))


def _undated(icc: bytes) -> bytes:
    """A profile without the time of its making (ICC.1, 7.2.8): equal pictures are to be equal files."""
    return icc[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + icc[36:]


def _encode_with_pillow(picture: Picture, **options: object) -> bytes:
    colour, alpha = picture.colour, picture.alpha
    planes = colour if alpha is None else np.dstack([colour, alpha])
    channels = planes.shape[2]
    mode = "CMYK" if colour.shape[2] == 4 else {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    image = Image.frombytes(mode, (colour.shape[1], colour.shape[0]), np.ascontiguousarray(planes).tobytes())
    out = io.BytesIO()
    metadata = picture.metadata
    given = {"icc_profile": metadata.icc, "exif": metadata.exif, "dpi": metadata.dpi, "xmp": metadata.xmp}
    image.save(out, picture.format, **{k: v for k, v in {**given, **options}.items() if v is not None})
    return out.getvalue()


def _encode_png(picture: Picture) -> bytes:
    if picture.peak == 255:
        return with_chunks(_encode_with_pillow(replace(picture, metadata=Metadata())), picture.metadata)
    planes = picture.colour if picture.alpha is None else np.dstack([picture.colour, picture.alpha])
    plain = bytes(imagecodecs.png_encode(np.ascontiguousarray(planes.squeeze(2) if planes.shape[2] == 1 else planes)))
    return with_chunks(plain, picture.metadata)


def _encode_jpeg(picture: Picture, quality: int) -> bytes:
    # Chroma at half the resolution would throw away what was just computed.
    optimize = picture.colour.size < 2**24
    metadata = picture.metadata
    extra = None if metadata.iptc is None else iptc_segment(metadata.iptc)
    return _encode_with_pillow(
        picture, quality=quality, subsampling=0, optimize=optimize, comment=metadata.comment, extra=extra
    )


def _encode_webp(picture: Picture, quality: int | None) -> bytes:
    lossless = picture.is_lossless if quality is None else quality == 100
    return _encode_with_pillow(
        picture,
        quality=100 if lossless else quality or _QUALITY,
        lossless=lossless,
        exact=True,
        dpi=None,
        exif=exif_with_dpi(picture.metadata),
    )
