"""Trying again: in fp32 when half precision failed, in smaller tiles when memory ran out."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from anysr.out_of_memory import is_out_of_memory
from anysr.upscaling.plan import Request
from anysr.upscaling.strips import NotFiniteError

_SMALLEST_TILE_PX = 32
_FIRST_TILE_PX = 256
T = TypeVar("T")


def with_fallbacks(
    attempt: Callable[[Request], T], request: Request, *, tile_is_free: bool
) -> tuple[T, Request, list[str]]:
    """Run ``attempt`` until it succeeds, with the request or with one that asks for less.

    Args:
        attempt: raises what tells why it failed.
        request: to begin with.
        tile_is_free: the tile was not asked for, so a smaller one may be taken.

    Returns:
        The answer, the request that led to it, and a line for each thing given up.

    Raises:
        MemoryError: memory ran out with the tile that was asked for, or with the smallest.
        ValueError: the answer is not finite in fp32.
    """
    notes: list[str] = []
    while True:
        try:
            return attempt(request), request, notes
        except NotFiniteError:
            if request.precision == "fp32":
                raise ValueError("the network answers with NaN or infinity in fp32; its weights are bad") from None
            notes.append(f"{request.precision} overflowed, computed in fp32")
            request = replace(request, precision="fp32")
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                request = _with_smaller_tile(request, tile_is_free)
                notes.append(f"memory ran out, computed in tiles of {request.tile} pixels")
            elif "not implemented for" in str(error) and request.precision != "fp32":
                notes.append(f"this device has no {request.precision}, computed in fp32")
                request = replace(request, precision="fp32")
            else:
                raise
        # Here the exception is gone, and with its frames what the failed attempt held.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _with_smaller_tile(request: Request, tile_is_free: bool) -> Request:
    if request.tile == "auto" and tile_is_free:
        return replace(request, tile=_FIRST_TILE_PX)
    if not tile_is_free or not isinstance(request.tile, int) or request.tile <= _SMALLEST_TILE_PX:
        asked = "the whole image at once" if request.tile is None else f"tiles of {request.tile} pixels"
        raise MemoryError(f"memory ran out with {asked}; give a smaller tile, or enlarge less") from None
    return replace(request, tile=max(_SMALLEST_TILE_PX, request.tile // 2))
