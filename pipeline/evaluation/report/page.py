"""The report's file: sections, figures and their rows in one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.evaluation.pictures import ERROR_LEVELS, Picture
from pipeline.evaluation.protocols import is_exact
from pipeline.evaluation.report.book import FIELD_SCALES, Book, Model
from pipeline.evaluation.report.plots import over_cost, over_scale
from pipeline.evaluation.report.tables import Table, boundaries, costs, fixed, glance, label, scores, subnets_of
from pipeline.evaluation.rows import OK, Row
from pipeline.evaluation.scales import Scale
from pipeline.evaluation.upscalers import INTERPOLATION
from pipeline.files import write_text

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Panel:
    """One of the images shown side by side.

    Attributes:
        title: whose answer.
        score: of the whole image.
        figures: the mean that the score is part of.
        image: data URI of the crop.
        beneath: data URI of what is shown below it.
        image_text: what the crop shows, in words.
        beneath_text: what is below it, in words.
    """

    title: str
    score: str
    figures: tuple[int, ...]
    image: str
    beneath: str
    image_text: str
    beneath_text: str


@dataclass(frozen=True)
class Comparison:
    """One image as every candidate gives it."""

    heading: str
    panels: tuple[Panel, ...]


def write_report(book: Book, path: Path) -> None:
    """Write the page; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(book))


def render(book: Book) -> str:
    """The page."""
    loader = jinja2.FileSystemLoader(_HERE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2").render(_content(book))


def _content(book: Book) -> dict[str, Any]:
    subject = book.subject
    key_scales = _key_scales(book)
    cost_scales = [scale for scale in FIELD_SCALES if scale in book.scales] or key_scales
    frontier = [(suite, scale) for scale in FIELD_SCALES for suite in book.suites]
    return {
        "title": subject.name if subject else "bicubic",
        "subject": subject,
        "models": book.models,
        "suites": {suite: len(images) for suite, images in book.images.items()},
        "protocols": _protocols(book),
        "glance": glance(book),
        "over_scale": [plot for suite in book.suites for plot in over_scale(book, suite)],
        "over_cost": [plot for one in frontier if (plot := over_cost(book, *one))],
        "scores": [_tables_of(book, suite, key_scales) for suite in book.suites],
        "fixed": fixed(book),
        "boundaries": boundaries(book),
        "costs": costs(book, cost_scales),
        "all_costs": costs(book, book.scales) if len(book.scales) > len(cost_scales) else None,
        "cost_note": _cost_note(book),
        "comparisons": list(_comparisons(book)),
        "error_levels": ERROR_LEVELS,
        "failures": _failures(book),
        "environments": list(reversed(book.environments)),
        "data": Markup(_data(book)),
        "css": Markup((_HERE / "page.css").read_text()),
        "js": Markup((_HERE / "page.js").read_text()),
    }


def _tables_of(book: Book, suite: str, key_scales: list[Scale]) -> dict[str, Any]:
    tables = [scores(book, suite, metric, key_scales) for metric in book.metrics]
    whole: list[Table] = []
    if len(book.scales) > len(key_scales):
        whole = [scores(book, suite, metric, book.scales) for metric in book.metrics]
    return {"suite": suite, "tables": tables, "whole": whole, "count": len(book.scales)}


def _key_scales(book: Book) -> list[Scale]:
    """×2, ×3, ×4, and what lies beyond or is asymmetric; all of them where there are few."""
    if len(book.scales) <= 8:
        return book.scales
    return [s for s in book.scales if s in FIELD_SCALES or s.height != s.width or s.height > 4] or book.scales[:8]


def _protocols(book: Book) -> list[str]:
    """Each way of scoring, with what was scored so."""
    made = {"pil": "Pillow's bicubic on 8-bit pixels", "matlab": "MATLAB's bicubic imresize", "given": "given images"}
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in book.rows:
        groups.setdefault((row.scoring, row.lr), []).append(row)
    lines = []
    for (scoring, lr), rows in groups.items():
        metrics = ", ".join(metric.upper() for metric in book.metrics if any(row.metric == metric for row in rows))
        alone = " of bicubic" if all(row.kind == INTERPOLATION for row in rows) and len(groups) > 1 else ""
        suites = list(dict.fromkeys(row.suite for row in rows))
        where = "" if suites == book.suites else f" on {', '.join(suites)}"
        lines.append(f"{metrics}{alone}{where} – {scoring}; LR by {made.get(lr, lr)}")
    return lines


def _cost_note(book: Book) -> str:
    asked = [(model, subnet, scale) for model in book.models for subnet in subnets_of(model) for scale in book.scales]
    shown = [cost for one in asked if (cost := book.cost(*one))]
    measured = [cost for cost in shown if cost.latency_ms is not None]
    sizes = sorted({f"{cost.hr_w} × {cost.hr_h}" for cost in shown})
    note = f"For making one image of {', '.join(sizes)}. MACs: multiply-adds of a network's published form"
    if measured:
        where = sorted({f"{cost.device}, {cost.threads} threads" for cost in measured})
        note += f"; ms and MiB: time (median) and memory beyond the loaded model as measured here ({'; '.join(where)})"
    faults = sorted({f"{cost.model} ×{cost.scale_h:g}: {cost.status}" for cost in shown if cost.status != OK})
    return ". ".join([note, *faults]) + "."


def _comparisons(book: Book) -> Iterator[Comparison]:
    groups: dict[tuple[str, str, str, float, float], list[Picture]] = {}
    for p in book.pictures:
        groups.setdefault((p.suite, p.rank, p.image, p.scale_h, p.scale_w), []).append(p)
    for (suite, rank, image, *pair), pictures in groups.items():
        if suite not in book.images or image not in book.images[suite]:
            continue
        scale = Scale(*pair)
        by = {(picture.model_digest, picture.subnet, picture.what): picture for picture in pictures}
        hr, whole = by["", "", "hr"], by["", "", "whole"]
        place = f"{image}, rows from {hr.top}, columns from {hr.left}"
        panels = [Panel("HR", "", (), _uri(hr), _uri(whole), f"HR: {place}", f"{image}, the crop's place marked")]
        models = {model.digest: model for model in book.models}
        panels += [
            _panel(book, models[digest], subnet, suite, image, scale, by)
            for digest, subnet, what in by
            if what == "answer" and digest in models
        ]
        word = {"best": "gains most", "worst": "gains least"}[rank]
        yield Comparison(f"{suite} ×{scale}: {image} {word}", tuple(panels))


def _panel(
    book: Book,
    model: Model,
    subnet: str,
    suite: str,
    image: str,
    scale: Scale,
    by: dict[tuple[str, str, str], Picture],
) -> Panel:
    mean = book.mean(model, subnet, suite, scale)
    value = mean.values[book.images[suite].index(image)] if mean else None
    score = "" if value is None else "exact" if is_exact("psnr", value) else f"{value:.2f} dB"
    answer, error = by[model.digest, subnet, "answer"], by[model.digest, subnet, "error"]
    name = label(model, subnet)
    texts = f"{name}: the same crop of {image} at ×{scale} {score}", f"{name}: error, brighter is larger"
    return Panel(name, score, (mean.number,) if mean else (), _uri(answer), _uri(error), *texts)


def _failures(book: Book) -> list[str]:
    failed = (row for row in book.rows if row.status != OK)
    return list(dict.fromkeys(f"{row.suite} {row.image}, {row.model}: {row.status}" for row in failed))


def _uri(picture: Picture) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.png).decode()


def _data(book: Book) -> str:
    """All rows by figure, for the page's script and for people."""
    models = {model.digest: number for number, model in enumerate(book.models)}
    settings = {row.suite: [row.lr, row.protocol] for row in book.rows}
    figures = [
        [models[m.model.digest], m.subnet, m.suite, m.scale.height, m.scale.width, m.metric,
         [v if v is None or math.isfinite(v) else str(v) for v in m.values]]
        for m in sorted(book.means.values(), key=lambda mean: mean.number)
    ]  # fmt: skip
    content = {
        "models": [[model.name, model.digest, model.kind] for model in book.models],
        "settings": settings,
        "images": book.images,
        "figures": figures,
    }
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
