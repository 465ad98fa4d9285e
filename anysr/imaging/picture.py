"""A decoded image with all that its file said about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]
Chunk = tuple[bytes, bytes]  # of a PNG file: kind and content


class ImageError(ValueError):
    """A file that is no image, is damaged, or holds what cannot be enlarged: the reason in one line."""


class NoImageError(ImageError):
    """A file of another kind, or an empty one."""


@dataclass(frozen=True)
class Metadata:
    """What a file says beside its pixels.

    Attributes:
        icc: colour profile.
        exif: EXIF block without header, upright and without its thumbnail.
        dpi: pixels per inch, (x, y).
        xmp: XMP packet, upright.
        comment: of a JPEG or GIF.
        iptc: captions, keywords and credits of a JPEG or TIFF, as IPTC's records.
        colours: what a PNG says of its colours beside a profile: cICP, sRGB, gAMA, cHRM, mDCV, cLLI.
        texts: of a PNG.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    comment: bytes | None = None
    iptc: bytes | None = None
    colours: tuple[Chunk, ...] = ()
    texts: tuple[Chunk, ...] = ()


@dataclass(frozen=True)
class Picture:
    """An upright image.

    Attributes:
        colour: (H, W, C) of 0 ... 255 in uint8 or 0 ... 65535 in uint16; C is 1 for grey, 3 for RGB,
            4 for the inks of CMYK (0 is bare paper). Not multiplied by alpha.
        alpha: (H, W) of the same type, 0 is transparent; None where there is no transparency.
        metadata: profile, EXIF and resolution.
        format: as Pillow calls it ("PNG", "JPEG", …), what the file was; empty for none.
        notes: what was lost, a line each, for people.
        is_lossless: of a format that can be either, such as WebP, it was the one without loss.
    """

    colour: Pixels
    alpha: Pixels | None = None
    metadata: Metadata = field(default_factory=Metadata)
    format: str = ""
    notes: tuple[str, ...] = ()
    is_lossless: bool = False

    def __post_init__(self) -> None:
        colour, alpha = self.colour, self.alpha
        if colour.ndim != 3 or colour.shape[2] not in (1, 3, 4) or colour.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"colour must be (H, W, 1, 3 or 4) uint8 or uint16, got {colour.shape} {colour.dtype}")
        if alpha is not None and (alpha.shape != colour.shape[:2] or alpha.dtype != colour.dtype):
            raise ValueError(f"alpha must be {colour.shape[:2]} {colour.dtype}, got {alpha.shape} {alpha.dtype}")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.colour.shape[0], self.colour.shape[1]

    @property
    def peak(self) -> int:
        """The largest value: 255 or 65535."""
        return int(np.iinfo(self.colour.dtype).max)

    @property
    def mode(self) -> str:
        """What people call it, like "RGB + alpha, 16 bit"."""
        name = {1: "grey", 3: "RGB", 4: "CMYK"}[self.colour.shape[2]]
        return name + (" + alpha" if self.alpha is not None else "") + (", 16 bit" if self.peak > 255 else "")


def check_pixels(size: tuple[int, int], max_megapixels: float) -> None:
    """Refuse more pixels than allowed, told from a header.

    Args:
        size: (width, height).
        max_megapixels: how many.

    Raises:
        ImageError: there are more.
    """
    if size[0] * size[1] > max_megapixels * 1e6:
        megapixels = size[0] * size[1] / 1e6
        raise ImageError(f"{size[0]} x {size[1]} are {megapixels:.4g} megapixels, more than {max_megapixels:g}")


def to_8_bits(values: Pixels) -> Pixels:
    """uint16 of 0 ... 65535 to the nearest uint8 of 0 ... 255, of any shape."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
