"""How large: a factor, a factor per axis, an exact size, a width, a height or a longest side."""

from __future__ import annotations

import re
from dataclasses import dataclass

from anysr.amounts import parse_whole
from anysr.geometry import Pair, Target, resolve_target

_PAIR = re.compile(r"([0-9.]+)[x×]([0-9.]+)")


@dataclass(frozen=True)
class Enlargement:
    """One of the ways to say how large; exactly one is given.

    Attributes:
        scale: (s_h, s_w).
        size: (H, W), exactly; the aspect ratio follows it.
        width: of the enlargement, the height in proportion.
        height: of the enlargement, the width in proportion.
        long_edge: the longer side, the other in proportion.
    """

    scale: Pair | None = None
    size: tuple[int, int] | None = None
    width: int | None = None
    height: int | None = None
    long_edge: int | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.scale, self.size, self.width, self.height, self.long_edge) if v is not None]
        if len(given) != 1:
            raise ValueError("say how large in one way: a scale, a size, a width, a height, or a long edge")

    def resolve(self, lr_size: tuple[int, int]) -> Target:
        """Grid and scale pair for an image of (h, w).

        Raises:
            ValueError: it would shrink the image.
        """
        height, width = lr_size
        if self.scale is not None:
            return resolve_target(lr_size, self.scale, None)
        if self.size is not None:
            _check_enlarges(lr_size, self.size)
            return resolve_target(lr_size, None, self.size)
        sides = self._sides(lr_size)
        factor = max(exact / n for exact, n in zip(sides, lr_size, strict=True) if exact is not None)
        size = (sides[0] or max(1, round(height * factor)), sides[1] or max(1, round(width * factor)))
        _check_enlarges(lr_size, size)
        return resolve_target(lr_size, (factor, factor), size)

    def _sides(self, lr_size: tuple[int, int]) -> tuple[int | None, int | None]:
        """The side that is given; None is in proportion."""
        if self.long_edge is not None:
            return (self.long_edge, None) if lr_size[0] >= lr_size[1] else (None, self.long_edge)
        return self.height, self.width


def parse_scale(text: str) -> Pair:
    """``2.37``, or ``2x3.1``: height times 2, width times 3.1."""
    pair = _PAIR.fullmatch(text.lower())
    try:
        values = tuple(float(v) for v in (pair.groups() if pair else (text, text)))
    except ValueError:
        raise ValueError(f"a scale is a number, or two for height x width as in 2x3.1, got {text!r}") from None
    return resolve_target((1, 1), values, None).scale


def parse_size(text: str) -> tuple[int, int]:
    """``1920x1080``, width x height as screens are named, to (H, W)."""
    pair = _PAIR.fullmatch(text.lower())
    width, height = (parse_whole(side) for side in (pair.groups() if pair else ("", "")))
    if not (width and height):
        raise ValueError(f"a size is width x height in pixels as in 1920x1080, got {text[:40]!r}")
    return height, width


def _check_enlarges(lr_size: tuple[int, int], size: tuple[int, int]) -> None:
    if size[0] < lr_size[0] or size[1] < lr_size[1]:
        raise ValueError(
            f"{size[1]} x {size[0]} is smaller than the image's {lr_size[1]} x {lr_size[0]}; AnySR enlarges, "
            "to shrink an image use a resampler"
        )
