"""Image files to pictures and back, losing nothing that a photo carries. Needs the ``images`` extra."""

from anysr.imaging.picture import ImageError, Metadata, NoImageError, Picture
from anysr.imaging.read import MAX_MEGAPIXELS, NAMES_READ, read_image, upright_size
from anysr.imaging.write import FORMATS, Format, encode_image, format_of, write_image

__all__ = [
    "FORMATS",
    "MAX_MEGAPIXELS",
    "NAMES_READ",
    "Format",
    "ImageError",
    "Metadata",
    "NoImageError",
    "Picture",
    "encode_image",
    "format_of",
    "read_image",
    "upright_size",
    "write_image",
]
