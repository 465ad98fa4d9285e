"""Pillow's own limit on pixels; apart from ``anysr.imaging``, as training opens photos with Pillow alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

_lock = threading.Lock()


@contextmanager
def without_pillow_limit() -> Iterator[None]:
    """Images are opened without Pillow's own limit on pixels, a global, for which threads wait here.

    Who opens them checks the size in their header before a pixel is decoded.
    """
    with _lock:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
