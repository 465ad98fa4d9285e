"""What PNG files hold beside their pixels, in chunks (PNG specification, 11.3): Pillow handles a part of it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from anysr.imaging.picture import Chunk, Metadata

_FIRST_CHUNK, _AFTER_HEADER = 8, 33  # behind the signature, and behind IHDR
_METRES_PER_INCH = 0.0254
_EXIF_HEADER = b"Exif\0\0"
_XMP_KEYWORD = b"XML:com.adobe.xmp\0"
_COLOUR_BYTES = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"mDCV": 24, b"cLLI": 8}
_TEXT_KINDS = (b"tEXt", b"zTXt", b"iTXt")
_END = b"IEND"
_ELSEWHERE = (_XMP_KEYWORD, b"Raw profile type ")  # texts that are XMP, EXIF or a profile
_SRGB_CODE = bytes((1, 13, 0, 1))  # of cICP (ITU-T H.273)
# In 1/100,000, as they are stored: gamma, and x and y of white, red, green and blue.
_SRGB_VALUES = {b"gAMA": (45_455,), b"cHRM": (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)}
_SRGB_TOLERANCE = 100


def read_chunks(data: bytes) -> tuple[tuple[Chunk, ...], tuple[Chunk, ...]]:
    """What a file says of its colours beside a profile, and its texts, as they are stored."""
    colours, texts = dict[bytes, bytes](), list[Chunk]()
    for kind, body in _chunks(data):
        if len(body) == _COLOUR_BYTES.get(kind):
            colours[kind] = body
        elif kind in _TEXT_KINDS and not body.startswith(_ELSEWHERE):
            texts.append((kind, body))
    return tuple(colours.items()), tuple(texts)


def are_srgb(colours: tuple[Chunk, ...]) -> bool:
    """Whether they say what is taken for granted without them."""
    told = dict(colours)
    if b"cICP" in told:
        return told[b"cICP"] == _SRGB_CODE
    stated = [kind for kind in _SRGB_VALUES if kind in told]
    return b"sRGB" in told or all(_is_near(told[kind], _SRGB_VALUES[kind]) for kind in stated)


def with_chunks(png: bytes, metadata: Metadata) -> bytes:
    """A bare PNG file with all that is known beside its pixels."""
    chunks = list(metadata.colours)
    if metadata.icc is not None:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.dpi is not None:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(v / _METRES_PER_INCH) for v in metadata.dpi), 1)))
    if metadata.exif is not None:
        chunks.append((b"eXIf", metadata.exif.removeprefix(_EXIF_HEADER)))
    if metadata.xmp is not None:
        chunks.append((b"iTXt", _XMP_KEYWORD + b"\0\0\0\0" + metadata.xmp))
    chunks += metadata.texts
    packed = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return png[:_AFTER_HEADER] + packed + png[_AFTER_HEADER:]


def _chunks(data: bytes) -> Iterator[Chunk]:
    """Those of the kinds that are carried."""
    start, kind = _FIRST_CHUNK, b""
    while start + 8 <= len(data) and kind != _END:
        length, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        if kind in _COLOUR_BYTES or kind in _TEXT_KINDS:
            yield kind, data[start + 8 : start + 8 + length]
        start += 12 + length


def _is_near(body: bytes, values: tuple[int, ...]) -> bool:
    told = struct.unpack(f">{len(values)}I", body)
    return all(abs(a - b) <= _SRGB_TOLERANCE for a, b in zip(told, values, strict=True))
