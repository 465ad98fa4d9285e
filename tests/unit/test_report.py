"""The page about rows: its figures are means of rows, and lead back to them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.evaluation.costs import CostRow
from pipeline.evaluation.pictures import Picture
from pipeline.evaluation.report.book import Book
from pipeline.evaluation.report.charts import Line, Point, chart, frontier
from pipeline.evaluation.report.page import render
from pipeline.evaluation.report.plots import over_scale
from pipeline.evaluation.report.tables import boundaries, glance, scores
from pipeline.evaluation.rows import Row
from pipeline.evaluation.scales import Scale

MODELS = {
    "bicubic-pil": ("bicubic", "interpolation", ("full",)),
    "aaaa": ("<i>mine</i>", "any-resource", ("auto", "full")),
    "bbbb": ("original", "any-scale", ("full",)),
}
SCALES = (1.7, 1.8, 2.0, 3.0, 4.0)


def value(digest: str, subnet: str, image: int, scale: float, metric: str) -> float:
    base = {"psnr": 40 - 4 * scale, "ssim": 1 - scale / 10, "lpips": scale / 20}[metric]
    return base + 0.5 * image + 0.125 * list(MODELS).index(digest) + (0.25 if subnet == "full" else 0)


def make_rows(metrics=("psnr", "ssim", "lpips"), suites=("A", "B & <b>")) -> list[Row]:
    return [
        Row(digest, suite, f"{image}.png", "f00d", scale, scale, "pil", "liif", subnet, metric, name, kind,
            "liif: Y, border = scale, float", 2, 2, value(digest, subnet, image, scale, metric))
        for digest, (name, kind, subnets) in MODELS.items()
        for suite in suites
        for image in range(3)
        for scale in SCALES
        for subnet in subnets
        for metric in metrics
    ]  # fmt: skip


def make_costs() -> list[CostRow]:
    subnets = {1.7: 0, 1.8: 1, 2.0: 1, 3.0: 2, 4.0: 3}
    chosen = [(scale, subnet, index if subnet == "auto" else 3) for scale, index in subnets.items()
              for subnet in ("auto", "full")]  # fmt: skip
    return [
        CostRow("aaaa", "<i>mine</i>", "any-resource", subnet, scale, scale, index, 720, 1280, 1000 * (index + 1),
                10**9 * (index + 1), 10**9, 10**9, latency_ms=12.0, peak_bytes=2**21, runs=3, device="cpu", threads=2)
        for scale, subnet, index in chosen
    ]  # fmt: skip


class Page(HTMLParser):
    """Texts of elements that lead to rows, and everything that is fetched."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.cells: list[tuple[list[int], str]] = []
        self.fetched: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self._open: list[int] | None = None
        self.data = ""
        self._in_data = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action") and v]
        if tag == "img":
            self.images.append(given)
        self._in_data = given.get("id") == "data"
        if tag in ("td", "small"):
            self._open = [int(n) for n in (given.get("data-figures") or "").split()] if tag == "td" else None

    def handle_data(self, data):
        if self._in_data:
            self.data += data
        if self._open:
            self.cells.append((self._open, data))
            self._open = None


@pytest.fixture(scope="module")
def book() -> Book:
    png = b"\x89PNG"
    pictures = [Picture("", "A", "0.png", 3, 3, "", "best", what, 4, 8, png) for what in ("hr", "whole")]
    pictures += [
        Picture(digest, "A", "0.png", 3, 3, subnet, "best", what, 4, 8, png)
        for digest, subnet in (("bicubic-pil", "full"), ("aaaa", "auto"), ("aaaa", "full"))
        for what in ("answer", "error")
    ]
    return Book(make_rows(), make_costs(), pictures, [{"date": "today", "torch": "2"}])


@pytest.fixture(scope="module")
def page(book) -> Page:
    return Page(render(book))


def test_every_figure_is_the_mean_of_the_rows_it_leads_to(page):
    data = json.loads(page.data)
    made = {(r.model_digest, r.subnet, r.suite, r.scale_h, r.metric, r.image): r.value for r in make_rows()}
    for model, subnet, suite, scale, _, metric, values in data["figures"]:
        digest = data["models"][model][1]
        images = data["images"][suite]
        assert values == [made[digest, subnet, suite, scale, metric, image] for image in images]
    singles = [(numbers[0], text) for numbers, text in page.cells if len(numbers) == 1]
    assert len(singles) > 60
    for number, text in singles:
        values = data["figures"][number][6]
        assert abs(float(text) - np.mean(values)) <= 0.5 * 10 ** -len(text.split(".")[1]) + 1e-9


def test_differences_lead_to_both_their_figures(page):
    data = json.loads(page.data)
    pairs = [(numbers, text) for numbers, text in page.cells if len(numbers) == 2 and text[0] in "+−±"]
    assert len(pairs) > 30
    for (a, b), text in pairs:
        difference = np.mean(data["figures"][a][6]) - np.mean(data["figures"][b][6])
        assert abs(float(text.replace("−", "-").replace("±", "")) - difference) < 0.0051


def test_nothing_is_fetched_and_names_are_not_markup(book, page):
    assert page.fetched
    assert all(address.startswith("data:") for address in page.fetched)
    html = render(book)
    assert "<i>mine</i>" not in html.replace(page.data, "")
    assert "&lt;i&gt;mine" in html
    assert not re.search(r"url\(|@import|https?://", html)
    assert all(image["alt"] for image in page.images)


def test_tables(book):
    table = scores(book, "A", "psnr", [Scale(2, 2)])
    assert table.headings == ("scale", "bicubic", "original", "†", "‡", "† − bicubic", "† − original", "† − ‡")
    assert [cell.text for cell in table.rows[0][1:]] == [
        "32.75", "33.00", "32.62", "32.88", "−0.12", "−0.38", "−0.25"
    ]  # fmt: skip
    assert [row[0].text for row in boundaries(book).rows][:2] == ["×1.7", "×1.8"]
    assert glance(book).headings == ("", "×2", "×3", "×4")


def test_an_image_without_a_score_is_left_out_of_the_mean_and_reported():
    rows = make_rows(("psnr",), ("A",))
    broken = rows[0].__class__(**{**rows[0].__dict__, "value": None, "status": "not a readable image"})
    book = Book([broken, *rows[1:]])
    mean = book.mean(book.bicubic, "full", "A", Scale(1.7, 1.7))
    assert mean.values[0] is None
    assert mean.value == pytest.approx(np.mean([v for v in mean.values if v is not None]))
    assert "not a readable image" in render(book)


def test_perfect_scores_and_bicubic_alone_make_a_page():
    rows = [row for row in make_rows(("psnr",), ("A",)) if row.kind == "interpolation"]
    endless = [rows[0].__class__(**{**row.__dict__, "value": math.inf}) for row in rows]
    assert "Scores" in render(Book(rows))
    assert "inf" in render(Book(endless))


def test_images_that_come_back_exactly_are_no_point_of_a_chart():
    """As at ×1, where float32's rounding leaves 167 dB of them."""
    rows = make_rows(("psnr",), ("A",))
    exact = [replace(row, scale_h=1.0, scale_w=1.0, value=166.96) for row in rows if row.scale_h == 2.0]
    book = Book([*rows, *exact], make_costs())
    plots = over_scale(book, "A")
    assert len(plots) == 2
    assert not any("×1:" in plot.svg or "166" in plot.svg for plot in plots)
    assert [cell.text for cell in scores(book, "A", "psnr", [Scale(1, 1)]).rows[0]][1:] == ["exact"] * 4 + ["–"] * 3


def test_the_note_on_costs_tells_of_those_that_are_shown():
    """The folder may hold costs of other sizes and scales, which are left out of the table."""
    costs = [cost for cost in make_costs() if cost.scale_h != 3]
    other = replace(costs[0], scale_h=3.5, scale_w=3.5, hr_h=64, hr_w=96, device="a GPU", status="no memory")
    again = replace(costs[0], hr_h=100, hr_w=200)  # of the same rows the first is shown
    html = render(Book(make_rows(("psnr",), ("A",)), [*costs, other, again]))
    assert "one image of 1280 × 720. MACs" in html
    for left_out in ("96 × 64", "200 × 100", "a GPU", "no memory"):
        assert left_out not in html


def test_rows_that_do_not_belong_together_are_refused():
    rows = make_rows(("psnr",), ("A",))
    other = rows[0].__class__(**{**rows[0].__dict__, "protocol": "anysr"})
    changed = rows[0].__class__(**{**rows[0].__dict__, "image_digest": "beef", "subnet": "0"})
    renamed = rows[0].__class__(**{**rows[0].__dict__, "model_digest": "cccc"})
    for row, message in ((other, "several ways"), (changed, "after a change"), (renamed, "two models")):
        with pytest.raises(UserError, match=message):
            Book([*rows, row])
    with pytest.raises(UserError, match="no rows"):
        Book([])


def test_the_frontier_is_what_no_other_beats():
    points = [Point(x, y, (), "") for x, y in ((1, 30), (2, 29), (3, 32), (3, 31), (9, 32))]
    assert [(p.x, p.y) for p in frontier(points)] == [(1, 30), (3, 32)]


def test_a_chart_keeps_its_points_inside():
    line = Line("a", "own", tuple(Point(x, 30 + x, (x,), "p") for x in range(1, 5)))
    svg = chart([line], "words", "x", "y", edges=(2.5,))
    centres = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert len(centres) == 4
    assert all(50 <= x <= 426 and 12 <= y <= 238 for x, y in centres)
    assert centres == sorted(centres, key=lambda c: (c[0], -c[1]))
