"""How this process's memory allocator treats what a step frees."""

from __future__ import annotations

import ctypes
import platform

# malloc.h of glibc; the largest block that it lets an arena hold, and what it may keep for the next step.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGEST_KEPT, _KEPT_AT_MOST, _GROWTH = 32 * 2**20, 512 * 2**20, 64 * 2**20


def keep_freed_memory() -> None:
    """Let the next step use the memory that this one frees, without a detour through the system.

    Every step frees the same activations and wants them again. By default glibc gives them back in between,
    and the system fills each page with zeros anew: tens of thousands a second, 7 % of the main job's step.
    Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for option, value in ((_MMAP_THRESHOLD, _LARGEST_KEPT), (_TRIM_THRESHOLD, _KEPT_AT_MOST), (_TOP_PAD, _GROWTH)):
        library.mallopt(option, value)
