"""Scales on the command line: ``2``, ``2x3.1`` (height x width), ``1.1:4.0:0.1`` (both ends included), sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from pipeline.errors import UserError

_MOST = 1000
SWEEPS = {
    "paper": ("1.1:4.0:0.1",),  # AnySR, figure 4
    "benchmark": ("2", "3", "4"),
    "ood": ("6", "8", "12", "18", "24", "30"),  # beyond what networks are trained for
    "asymmetric": ("1.5x4", "4x1.5", "1.6x3.05", "3.05x1.6", "2x3.5", "3.5x2", "1.4x1.8", "3.1x3.6"),
}
BOUNDARIES = "boundaries"
_STEP = Decimal("0.1")  # of the sweep whose scales lie next to a boundary
_FORMS = "write 2, 2.5, 2x3.1 (height x width) or 1.1:4.0:0.1 (first:last:step)"


@dataclass(frozen=True, order=True)
class Scale:
    """How much larger the HR image is along each axis.

    Attributes:
        height: s_h, at least 1.
        width: s_w, at least 1.
    """

    height: float
    width: float

    def __str__(self) -> str:
        return f"{self.height:g}" if self.height == self.width else f"{self.height:g}x{self.width:g}"

    @property
    def pair(self) -> tuple[float, float]:
        """(s_h, s_w)."""
        return self.height, self.width


def parse_scales(texts: Sequence[str]) -> tuple[Scale, ...]:
    """All the scales that ``texts`` name, in order, each once; commas part several in one text.

    Raises:
        UserError: not a scale, below 1, or an endless sweep.
    """
    parts = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    scales = list(dict.fromkeys(scale for part in parts for scale in _parse(part)))
    if not scales:
        raise UserError(f"no scale given; {_FORMS}")
    return tuple(scales)


def named_sweeps(names: Sequence[str], edges: Sequence[float]) -> tuple[Scale, ...]:
    """Scales of sweeps by name; "boundaries" are the scales of 0.1 steps on both sides of scale groups' edges.

    Args:
        names: of :data:`SWEEPS`, or "boundaries".
        edges: where one scale group ends and the next starts.

    Raises:
        UserError: boundaries are asked for and there is none.
    """
    scales: list[Scale] = []
    for name in names:
        if name == BOUNDARIES:
            if not edges:
                raise UserError("the sweep boundaries needs a model with several scale groups; leave it out")
            scales += [scale for edge in edges for scale in sides(edge)]
        else:
            scales += parse_scales(SWEEPS[name])
    return tuple(dict.fromkeys(scales))


def sides(edge: float) -> tuple[Scale, Scale]:
    """The last multiple of 0.1 below a scale group's edge, and the first one that the next group serves."""
    steps = int(Decimal(str(edge)) / _STEP)
    upper = steps if steps * _STEP == Decimal(str(edge)) else steps + 1
    below, above = float(max(Decimal(1), (upper - 1) * _STEP)), float(upper * _STEP)
    return Scale(below, below), Scale(above, above)


def _parse(text: str) -> list[Scale]:
    if ":" in text:
        return _sweep(text)
    numbers = [_number(part, text) for part in text.split("x")]
    if len(numbers) > 2:
        raise UserError(f"{text!r} is not a scale; {_FORMS}")
    return [Scale(float(numbers[0]), float(numbers[-1]))]


def _sweep(text: str) -> list[Scale]:
    parts = text.split(":")
    if len(parts) != 3:
        raise UserError(f"{text!r} is not a sweep of scales; {_FORMS}")
    first, last = _number(parts[0], text), _number(parts[1], text)
    step = _decimal(parts[2], text)
    if step <= 0 or last < first or (last - first) / step >= _MOST:
        raise UserError(f"the sweep {text!r} must rise by a positive step and hold at most {_MOST} scales; {_FORMS}")
    count = int((last - first) / step) + 1
    return [Scale(value, value) for value in (float(first + step * i) for i in range(count))]


def _number(part: str, text: str) -> Decimal:
    value = _decimal(part, text)
    if not 1 <= value <= _MOST:
        raise UserError(f"a scale must be from 1 to {_MOST}, got {part} in {text!r}; 2 doubles height and width")
    return value


def _decimal(part: str, text: str) -> Decimal:
    # Decimal: 1.1 + 9 * 0.1 is to be 2, the scale of the tables, and not 2.0000000000000004.
    try:
        value = Decimal(part)
    except InvalidOperation:
        raise UserError(f"{text!r} is not a scale; {_FORMS}") from None
    if not value.is_finite():
        raise UserError(f"{text!r} is not a scale; {_FORMS}")
    return value
