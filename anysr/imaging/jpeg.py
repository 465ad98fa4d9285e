"""The structure of JPEG files (ITU-T T.81, annex B), as far as a hostile one must be known by it."""

from __future__ import annotations

import re

# In coded data 0xFF is followed by 0, or by the number of a restart; before a marker it may be repeated.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_START, _SCAN, _END = 0xD8, 0xDA, 0xD9


def num_scans(data: bytes, most: int) -> int:
    """Scans of the first picture in a file, counted up to ``most``: previews and videos behind it are not decoded."""
    position, scans = 2, 0
    while scans < most and (found := _MARKER.search(data, position)):
        marker, position = data[found.start() + 1], found.end()
        if marker == _END:
            break
        scans += marker == _SCAN
        if marker != _START:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return scans
