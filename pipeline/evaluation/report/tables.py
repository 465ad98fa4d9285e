"""The report's tables: every cell knows the figures that it is made of."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.evaluation.costs import CostRow
from pipeline.evaluation.report.book import FIELD_SCALES, Book, Mean, Model
from pipeline.evaluation.scales import Scale
from pipeline.evaluation.upscalers import ANY_RESOURCE

DECIMALS = {"psnr": 2, "ssim": 4, "lpips": 4}
NAMES = {"psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS (lower is better)"}
MARKS = {"auto": "†", "full": "‡"}


@dataclass(frozen=True)
class Cell:
    """One figure, or several joined into one.

    Attributes:
        text: what is shown.
        figures: numbers of the means.
        note: shown small beneath it.
    """

    text: str
    figures: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings; the first of each row names it."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def subnets_of(model: Model) -> tuple[str, ...]:
    """What is shown of a model: † and ‡ of one with subnets."""
    return ("auto", "full") if model.kind == ANY_RESOURCE else ("full",)


def label(model: Model, subnet: str) -> str:
    """What tables and charts call it."""
    if model.kind != ANY_RESOURCE:
        return model.name
    return MARKS.get(subnet, f"subnet {subnet}")


def glance(book: Book) -> Table | None:
    """The subject at ×2, ×3, ×4: its first subnet, and how that differs from bicubic and from the full network."""
    subject = book.subject
    scales = [scale for scale in FIELD_SCALES if scale in book.scales] or book.scales[:3]
    if subject is None:
        return None
    rows = []
    for suite in book.suites:
        cells = [_with_gains(book, subject, suite, scale) for scale in scales]
        rows.append((Cell(suite, tuple(f for cell in cells for f in cell.figures)), *cells))
    mark = f"{label(subject, subnets_of(subject)[0])} "
    caption = f"PSNR in dB of {mark}and, beneath, its gain over bicubic"
    caption += " and its difference to ‡" if subject.kind == ANY_RESOURCE else ""
    return Table(caption, ("", *(f"×{scale}" for scale in scales)), tuple(rows))


def scores(book: Book, suite: str, metric: str, scales: Sequence[Scale]) -> Table:
    """One metric on one suite: bicubic, originals, † and ‡, and the differences."""
    shown = [(m, s) for m in (book.bicubic, *book.originals, book.subject) if m for s in subnets_of(m)]
    shown = [one for one in shown if any(book.mean(*one, suite, scale, metric) for scale in scales)]
    pairs = _differences(book, shown)
    headings = ("scale", *(label(*one) for one in shown), *(f"{label(*a)} − {label(*b)}" for a, b in pairs))
    rows = []
    for scale in scales:
        means = {one: book.mean(*one, suite, scale, metric) for one in shown}
        if any(means.values()):
            cells = [_cell(mean) for mean in means.values()]
            cells += [_difference(means[a], means[b]) for a, b in pairs]
            rows.append((Cell(f"×{scale}", _figures(cells)), *cells))
    return Table(f"{suite}: {NAMES[metric]}", headings, tuple(rows))


def fixed(book: Book) -> Table | None:
    """Networks of one factor, each at its own, beside the subject's † there."""
    rows = []
    for model, scale in itertools.product(book.of_kind("fixed"), book.scales):
        means = [book.mean(model, "full", suite, scale) for suite in book.suites]
        if any(means):
            cells = [_cell(mean) for mean in means]
            cost = book.cost(model, "full", scale)
            head = Cell(f"{model.name} ×{scale}", _figures(cells))
            rows.append((head, *cells, Cell(_giga(cost.macs if cost else None))))
    headings = ("network", *book.suites, "G multiply-adds")
    return Table("Fixed-scale networks: PSNR, dB", headings, tuple(rows)) if rows else None


def boundaries(book: Book) -> Table | None:
    """† on both sides of each edge between scale groups."""
    subject = book.subject
    if subject is None or subject.kind != ANY_RESOURCE:
        return None
    rows = []
    for below, above in edges(book, subject):
        for scale, other in ((below, above), (above, below)):
            cost = book.cost(subject, "auto", scale)
            cells = []
            for suite in book.suites:
                own, full = (book.mean(subject, subnet, suite, scale) for subnet in ("auto", "full"))
                gap = _difference(own, full)
                cells.append(Cell(_cell(own).text, _figures([_cell(own), gap]), gap.text))
            side = "last before" if scale < other else "first from"
            head = Cell(f"×{scale}", _figures(cells), f"{side} the edge, subnet {cost.index if cost else '?'}")
            rows.append((head, *cells))
    caption = "† on both sides of the edges between scale groups: PSNR, dB and, beneath, the difference to ‡"
    return Table(caption, ("scale", *book.suites), tuple(rows)) if rows else None


def edges(book: Book, model: Model) -> Iterator[tuple[Scale, Scale]]:
    """Neighbouring scales that different subnets serve, at most 0.15 apart."""
    own = [c for c in book.costs if c.model_digest == model.digest and c.subnet == "auto" and c.scale_h == c.scale_w]
    for left, right in itertools.pairwise(sorted(own, key=lambda cost: cost.scale_h)):
        if left.index != right.index and right.scale_h - left.scale_h < 0.15:
            yield Scale(left.scale_h, left.scale_w), Scale(right.scale_h, right.scale_w)


def costs(book: Book, scales: Sequence[Scale]) -> Table | None:
    """Parameters, multiply-adds, time and memory by network, subnet and scale."""
    rows = []
    for model in book.models:
        for scale in scales:
            shown = {subnet: book.cost(model, subnet, scale) for subnet in subnets_of(model)}
            full = shown.get("full")
            rows += [
                (Cell(f"{_of(model, subnet)} ×{scale}"), *_costs(cost, full)) for subnet, cost in shown.items() if cost
            ]
    headings = ("network, scale", "params", "G MACs", "enc.", "dec.", "saved", "ms", "MiB")
    return Table("Costs", headings, tuple(rows)) if rows else None


def _costs(cost: CostRow, full: CostRow | None) -> tuple[Cell, ...]:
    saved = "" if full is None or full.macs == cost.macs else f"{1 - cost.macs / full.macs:.0%}"
    milliseconds = "" if cost.latency_ms is None else f"{cost.latency_ms:,.0f}"
    mebibytes = "" if cost.peak_bytes is None else f"{cost.peak_bytes / 2**20:,.0f}"
    counted = (_count(cost.params), *map(_giga, (cost.macs, cost.encoder_macs, cost.decoder_macs)))
    return tuple(Cell(text) for text in (*counted, saved, milliseconds, mebibytes))


def _of(model: Model, subnet: str) -> str:
    return f"{model.name} {MARKS[subnet]}" if model.kind == ANY_RESOURCE else model.name


def _differences(book: Book, shown: Sequence[tuple[Model, str]]) -> list[tuple[tuple[Model, str], tuple[Model, str]]]:
    """† (or the subject) against bicubic, ‡ and each original."""
    own = next(((model, subnet) for model, subnet in shown if model == book.subject), None)
    return [] if own is None else [(own, other) for other in shown if other != own]


def _with_gains(book: Book, subject: Model, suite: str, scale: Scale) -> Cell:
    first, *others = subnets_of(subject)
    own = book.mean(subject, first, suite, scale)
    against = [_difference(own, book.mean(book.bicubic, "full", suite, scale))]
    against += [_difference(own, book.mean(subject, other, suite, scale)) for other in others]
    cells = [_cell(own), *against]
    return Cell(cells[0].text, _figures(cells), " · ".join(cell.text for cell in against if cell.figures))


def _cell(mean: Mean | None) -> Cell:
    if mean is None:
        return Cell("–")
    return Cell("exact" if mean.is_exact else f"{mean.value:.{DECIMALS[mean.metric]}f}", (mean.number,))


def _difference(a: Mean | None, b: Mean | None) -> Cell:
    if a is None or b is None or a.is_exact or b.is_exact:
        return Cell("–")
    shown = f"{a.value - b.value:+.{DECIMALS[a.metric]}f}"
    zero = not any(digit in "123456789" for digit in shown)
    return Cell(f"±{shown[1:]}" if zero else shown.replace("-", "−"), (a.number, b.number))


def _figures(cells: Sequence[Cell]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(figure for cell in cells for figure in cell.figures))


def _giga(macs: int | None) -> str:
    if macs is None:
        return "–"
    giga = macs / 1e9
    return f"{giga:,.0f}" if giga >= 100 else f"{giga:.3g}"


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"
