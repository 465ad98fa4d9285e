"""The bytes of an image file in, those of its enlargement out: the same for the command line, batches and services."""

from __future__ import annotations

from dataclasses import dataclass, replace

from anysr.imaging import MAX_MEGAPIXELS, Format, Picture, encode_image, read_image
from anysr.imaging.guard import time_limit
from anysr.imaging.picture import check_pixels
from anysr.upscaling.plan import Request
from anysr.upscaling.upscaler import Progress, Result, Upscaler

_DECODE_LIMIT_S = 120.0


@dataclass(frozen=True)
class FileOptions:
    """How files are read and written.

    Attributes:
        quality: 1 … 100 of JPEG and WebP; None is 95, and what was a lossless WebP stays one.
        max_megapixels: of the image and of its enlargement.
    """

    quality: int | None = None
    max_megapixels: float = MAX_MEGAPIXELS

    def __post_init__(self) -> None:
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be from 1 to 100, got {self.quality}")
        if not self.max_megapixels > 0:
            raise ValueError(f"max_megapixels must be positive, got {self.max_megapixels}")


def enlarge_file(
    upscaler: Upscaler,
    data: bytes,
    request: Request,
    spec: Format,
    options: FileOptions | None = None,
    progress: Progress | None = None,
) -> tuple[bytes, Result]:
    """Enlarge an image file.

    Args:
        upscaler: the network.
        data: of the file, from anyone.
        request: how large, within which limits.
        spec: of the result, one of :data:`anysr.imaging.FORMATS`.
        options: see :class:`FileOptions`.
        progress: as for :meth:`Upscaler.enlarge`.

    Returns:
        The file, and how it came about; ``picture.notes`` says what was lost. The same arguments on
        the same machine give the same bytes.

    Raises:
        ImageError: see :func:`anysr.imaging.read_image`; or the enlargement is too large.
        BudgetError, ValueError, MemoryError: see :meth:`Upscaler.enlarge`.
    """
    options = options or FileOptions()
    return enlarge_picture(upscaler, decode(data, options), request, spec, options, progress)


def decode(data: bytes, options: FileOptions) -> Picture:
    """The first half of :func:`enlarge_file`, for who wants to see the picture in between."""
    with time_limit(_DECODE_LIMIT_S, "decoding it"):
        return read_image(data, options.max_megapixels)


def enlarge_picture(
    upscaler: Upscaler,
    picture: Picture,
    request: Request,
    spec: Format,
    options: FileOptions,
    progress: Progress | None = None,
) -> tuple[bytes, Result]:
    """The second half of :func:`enlarge_file`."""
    height, width = request.enlargement.resolve(picture.size).size
    check_pixels((width, height), options.max_megapixels)
    spec.check_size((height, width))
    result = upscaler.enlarge(picture, request, progress)
    encoded, written = encode_image(result.picture, spec, options.quality)
    return encoded, replace(result, picture=written)
