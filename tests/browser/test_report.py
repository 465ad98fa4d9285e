"""The page about scores in headless Chromium: no error, nothing fetched, no sideways scrolling on a phone."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from pipeline.evaluation.pictures import Picture
from pipeline.evaluation.report.book import Book
from pipeline.evaluation.report.page import render
from tests.unit.test_report import make_costs, make_rows

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; Debian: apt install chromium")

# Reads what the page shows of one figure once its cell is clicked, and what hovering over a point says.
PROBE = """
const seen = {};
const cell = [...document.querySelectorAll("td[data-figures]")].find((td) => td.textContent === "32.75");
cell.click();
const dialog = document.getElementById("rows");
seen.open = dialog.open;
seen.rows = [...dialog.querySelectorAll("tr")].map((tr) => tr.innerText.split("\\t"));
seen.filter = dialog.querySelector("code").textContent;
dialog.close();
const point = document.querySelector("circle[data-figures]");
point.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX: 50, clientY: 60 }));
seen.hover = document.getElementById("hover").textContent;
const fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
seen.fetched = fetched.filter((name) => !name.startsWith("data:"));
seen.images = [...document.images].map((image) => image.naturalWidth);
"""
WIDTH = """
frame.onload = () => {
  const page = frame.contentDocument;
  page.querySelectorAll("details").forEach((one) => (one.open = true));
  const seen = { width: page.documentElement.scrollWidth };
  const shown = Object.assign(document.createElement("pre"), { id: "seen", textContent: JSON.stringify(seen) });
  document.body.append(shown);
};
"""


@pytest.fixture(scope="module")
def page() -> str:
    dot = io.BytesIO()
    Image.new("RGB", (72, 72), "teal").save(dot, "PNG")
    pictures = [Picture(digest, "A", "0.png", 3, 3, subnet, "best", what, 0, 0, dot.getvalue())
                for digest, subnet, kinds in (("", "", ("hr", "whole")), ("aaaa", "auto", ("answer", "error")))
                for what in kinds]  # fmt: skip
    return render(Book(make_rows(), make_costs(), pictures, [{"date": "today", "command": "evaluate " + "x" * 200}]))


def chromium(folder: Path, file: Path, *more: str) -> subprocess.CompletedProcess[str]:
    quiet = ["--disable-background-networking", "--disable-component-update", "--no-first-run", "--disable-sync"]
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile", *quiet]
    command = [str(CHROMIUM), *options, "--enable-logging=stderr", "--virtual-time-budget=4000", *more, file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def probed(folder: Path, text: str, *more: str) -> tuple[dict, str]:
    file = folder / "page.html"
    file.write_text(text)
    done = chromium(folder, file, "--dump-dom", *more)
    found = re.findall(r'<pre id="seen">({.*?})</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[-1])), done.stderr


def test_a_figure_leads_to_its_rows_without_an_error_or_a_request(page, tmp_path):
    show = 'document.body.append(Object.assign(document.createElement("pre"), '
    show += '{ id: "seen", textContent: JSON.stringify(seen) }));'
    script = f"<script>{PROBE}{show}</script></body>"
    seen, errors = probed(tmp_path, page.replace("</body>", script))
    assert "CONSOLE" not in errors
    assert seen["open"]
    assert seen["rows"] == [["0.png", "32.2500"], ["1.png", "32.7500"], ["2.png", "33.2500"], ["mean of 3", "32.7500"]]
    assert "suite = 'A'" in seen["filter"]
    assert "scale_h = 2" in seen["filter"]
    assert "dB" in seen["hover"]
    assert seen["images"] == [72] * 4
    assert seen["fetched"] == []


def test_nothing_is_wider_than_a_phone(page, tmp_path):
    frame = f'<iframe id="frame" width="390" height="844" style="border:0" srcdoc="{html.escape(page)}"></iframe>'
    seen, _ = probed(tmp_path, f"<!DOCTYPE html><body>{frame}<script>{WIDTH}</script></body>")
    assert seen["width"] <= 390


def test_it_prints(page, tmp_path):
    (tmp_path / "page.html").write_text(page)
    chromium(tmp_path, tmp_path / "page.html", f"--print-to-pdf={tmp_path}/page.pdf", "--no-pdf-header-footer")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
