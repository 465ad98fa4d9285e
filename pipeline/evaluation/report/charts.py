"""Line charts as inline SVG: every point knows the figure that it stands for, colours follow the page's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 440, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 42
_WIDE = 8.0  # less than this many times is clearer on a linear axis


@dataclass(frozen=True)
class Point:
    """One figure in a chart.

    Attributes:
        x: horizontal value.
        y: vertical value.
        figures: numbers of the means that it is made of.
        label: shown beside the pointer.
    """

    x: float
    y: float
    figures: tuple[int, ...]
    label: str


@dataclass(frozen=True)
class Line:
    """Points of one kind.

    Attributes:
        name: in the legend.
        style: CSS class, which holds colour and dashes.
        points: in order.
        joined: whether a line runs through them.
    """

    name: str
    style: str
    points: tuple[Point, ...]
    joined: bool = True


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            many = self.high / self.low > 30
            ticks = [m * 10.0**d for d in decades for m in ((1,) if many else (1, 2, 5))]
        else:
            step = _step((self.high - self.low) / 5)
            first = math.ceil(self.low / step - 1e-9)
            ticks = [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]
        return [tick for tick in ticks if self.low * (1 - 1e-9) <= tick <= self.high * (1 + 1e-9) or tick == 0]


def chart(
    lines: Sequence[Line],
    described: str,
    x_title: str,
    y_title: str,
    *,
    logarithmic: bool = False,
    edges: Sequence[float] = (),
    zero: bool = False,
    times: bool = False,
) -> Markup:
    """An SVG.

    Args:
        lines: what to draw, the last on top.
        described: the picture in words, for those who cannot see it.
        x_title: of the horizontal axis.
        y_title: of the vertical axis.
        logarithmic: the horizontal axis, where its values differ much.
        edges: vertical lines, where another subnet takes over.
        zero: draw the line y = 0.
        times: horizontal values are factors.
    """
    points = [point for line in lines for point in line.points]
    x_axis = _spanning([p.x for p in points], _LEFT, _WIDTH - _RIGHT, logarithmic)
    y_axis = _spanning([p.y for p in points] + ([0.0] if zero else []), _HEIGHT - _BOTTOM, _TOP)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(described)}">']
    parts += _grid(x_axis, y_axis, x_title, y_title, "×{:g}".format if times else _short)
    bottom = _HEIGHT - _BOTTOM
    parts += [
        f'<line class="edge" x1="{x_axis(edge):.1f}" x2="{x_axis(edge):.1f}" y1="{_TOP}" y2="{bottom}"/>'
        for edge in edges
        if x_axis.low < edge < x_axis.high
    ]
    if zero:
        parts.append(
            f'<line class="zero" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y_axis(0):.1f}" y2="{y_axis(0):.1f}"/>'
        )
    for line in lines:
        parts += _drawn(line, x_axis, y_axis)
    return Markup("".join([*parts, "</svg>"]))


def frontier(points: Sequence[Point]) -> tuple[Point, ...]:
    """Those that no other beats at no more cost."""
    best, kept = -math.inf, []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if point.y > best:
            kept.append(point)
            best = point.y
    return tuple(kept)


def _drawn(line: Line, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    at = [(x_axis(point.x), y_axis(point.y)) for point in line.points]
    parts = []
    if line.joined and len(at) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        parts.append(f'<polyline class="{line.style}" points="{path}"/>')
    for point, (x, y) in zip(line.points, at, strict=True):
        figures = " ".join(map(str, point.figures))
        parts.append(
            f'<circle class="{line.style}" cx="{x:.1f}" cy="{y:.1f}" r="{_radius(line)}" data-figures="{figures}" '
            f'data-label="{escape(line.name)}, {escape(point.label)}"/>'
        )
    return parts


def _radius(line: Line) -> float:
    return 2.4 if line.joined and len(line.points) > 12 else 4.2


def _grid(x_axis: _Axis, y_axis: _Axis, x_title: str, y_title: str, shown: Callable[[float], str]) -> list[str]:
    parts, bottom = [], _HEIGHT - _BOTTOM
    for tick in y_axis.ticks():
        y = y_axis(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(tick)}</text>')
    for tick in x_axis.ticks():
        x = x_axis(tick)
        parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{shown(tick)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="title" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_title)}</text>')
    across = (_TOP + bottom) / 2
    parts.append(
        f'<text class="title" transform="translate(12 {across}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_title)}</text>"
    )
    return parts


def _spanning(values: Sequence[float], start: float, end: float, logarithmic: bool = False) -> _Axis:
    low, high = min(values), max(values)
    if logarithmic and high > _WIDE * low:
        return _Axis(low / 1.25, high * 1.25, start, end, True)
    room = (high - low) * 0.05 or max(abs(high) * 0.01, 1e-3)
    return _Axis(low - room, high + room, start, end)


def _step(about: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(about))
    return next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= about * 0.999)


def _short(value: float) -> str:
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 6):g}").replace("-", "−")
