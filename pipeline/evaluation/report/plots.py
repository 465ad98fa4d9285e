"""Which charts a report shows: quality over scale, and quality over cost."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.evaluation.report.book import Book, Mean, Model
from pipeline.evaluation.report.charts import Line, Point, chart, frontier
from pipeline.evaluation.report.tables import edges, label, subnets_of
from pipeline.evaluation.scales import Scale
from pipeline.evaluation.upscalers import ANY_RESOURCE, INTERPOLATION

_WIDEST_SCALE = 4.0  # beyond it networks are not trained, and tables tell more than charts


@dataclass(frozen=True)
class Plot:
    """A chart with its heading and legend.

    Attributes:
        legend: (CSS class, name) of each line.
    """

    heading: str
    svg: Markup
    legend: tuple[tuple[str, str], ...]


def over_scale(book: Book, suite: str) -> list[Plot]:
    """PSNR over scale, and the gain over bicubic."""
    scales = [s for s in book.scales if s.height == s.width and s.height <= _WIDEST_SCALE]
    shown = [(m, s) for m in (book.bicubic, *book.originals, book.subject) if m for s in reversed(subnets_of(m))]
    lines = [_line(book, suite, scales, one) for one in shown]
    lines = [line for line in lines if len(line.points) > 1]
    if not lines:
        return []
    steps = [(a.height + b.height) / 2 for a, b in edges(book, book.subject)] if book.subject else []
    plots = [_plot(lines, f"{suite}: PSNR", "PSNR over scale on " + suite, "PSNR, dB", steps)]
    gains = [_gain(book, suite, scales, one) for one in shown if one[0].kind != INTERPOLATION]
    gains = [line for line in gains if len(line.points) > 1]
    if gains:
        heading = f"{suite}: gain over bicubic"
        plots.append(_plot(gains, heading, heading + " over scale", "gain, dB", steps, zero=True))
    return plots


def over_cost(book: Book, suite: str, scale: Scale) -> Plot | None:
    """PSNR over GFLOPs at one scale: subnets as a curve, other networks as points, and the frontier."""
    lines = [_costed(book, suite, scale, model) for model in book.models if model.kind != INTERPOLATION]
    lines = [line for line in lines if line.points]
    every = [point for line in lines for point in line.points]
    if len(every) < 2:
        return None
    front = Line("frontier", "frontier", tuple(Point(p.x, p.y, (), "") for p in frontier(every)))
    described = f"PSNR over GFLOPs on {suite} at ×{scale}: " + "; ".join(
        f"{line.name} {point.label}" for line in lines for point in line.points
    )
    cost = next(cost for cost in book.costs if (cost.scale_h, cost.scale_w) == scale.pair)
    title = f"GFLOPs (2 × multiply-adds) for {cost.hr_w} × {cost.hr_h}"
    svg = chart([front, *lines], described, title, "PSNR, dB", logarithmic=True)
    return Plot(f"{suite} ×{scale}", svg, tuple((line.style, line.name) for line in (*lines, front)))


def _plot(
    lines: Sequence[Line], heading: str, what: str, y_title: str, steps: Sequence[float], zero: bool = False
) -> Plot:
    ends = "; ".join(f"{line.name} from {line.points[0].label} to {line.points[-1].label}" for line in lines)
    svg = chart(lines, f"{what}. {ends}", "scale", y_title, edges=steps, zero=zero, times=True)
    return Plot(heading, svg, tuple((line.style, line.name) for line in lines))


def _line(book: Book, suite: str, scales: Sequence[Scale], one: tuple[Model, str]) -> Line:
    means = [_inexact(book.mean(*one, suite, scale)) for scale in scales]
    points = tuple(
        Point(m.scale.height, m.value, (m.number,), f"×{m.scale}: {m.value:.2f} dB") for m in means if m is not None
    )
    return Line(_named(*one), _style(book, *one), points)


def _gain(book: Book, suite: str, scales: Sequence[Scale], one: tuple[Model, str]) -> Line:
    points = []
    for scale in scales:
        own, base = (_inexact(book.mean(*which, suite, scale)) for which in (one, (book.bicubic, "full")))
        if own and base:
            gain = own.value - base.value
            points.append(Point(scale.height, gain, (own.number, base.number), f"×{scale}: {gain:+.2f} dB"))
    return Line(_named(*one), _style(book, *one), tuple(points))


def _costed(book: Book, suite: str, scale: Scale, model: Model) -> Line:
    indices = sorted({cost.index for cost in book.costs if cost.model_digest == model.digest})
    subnets = [str(index) for index in indices] if model.kind == ANY_RESOURCE else ["full"]
    points = []
    for subnet in subnets:
        mean, cost = _inexact(book.mean(model, subnet, suite, scale)), book.cost(model, subnet, scale)
        if mean and cost:
            points.append(_costed_point(mean, 2e-9 * cost.macs, subnet if len(subnets) > 1 else ""))
    name = f"{model.name}, subnets" if model.kind == ANY_RESOURCE else model.name
    return Line(name, _style(book, model, "auto"), tuple(points))


def _costed_point(mean: Mean, gigaflops: float, subnet: str) -> Point:
    which = f"subnet {subnet}: " if subnet else ""
    return Point(gigaflops, mean.value, (mean.number,), f"{which}{mean.value:.2f} dB at {gigaflops:.3g} GFLOPs")


def _inexact(mean: Mean | None) -> Mean | None:
    """Equal images, as at ×1, have no place in a chart."""
    return None if mean is None or mean.is_exact else mean


def _named(model: Model, subnet: str) -> str:
    meaning = {"auto": "own subnet", "full": "full network"}
    return f"{label(model, subnet)} {meaning[subnet]}" if model.kind == ANY_RESOURCE else model.name


def _style(book: Book, model: Model, subnet: str) -> str:
    """Bicubic, † and ‡ have colours of their own; other networks take turns."""
    if model.kind == INTERPOLATION:
        return "bicubic"
    if model == book.subject:
        return "own" if subnet == "auto" or model.kind != ANY_RESOURCE else "whole"
    others = [other for other in book.models if other.kind != INTERPOLATION and other != book.subject]
    turn = itertools.islice(itertools.cycle("abcde"), others.index(model), None)
    return f"other-{next(turn)}"
