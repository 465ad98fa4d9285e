"""The service as people and programs meet it: a real one, in headless Chromium and under a burst of requests."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, FileChooser, Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout

import anysr
from anysr.imaging import FORMATS
from anysr.upscaling import Enlargement, Request, Upscaler, enlarge_file
from tests.conftest import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; Debian: apt install chromium")
PHOTO = ROOT / "pipeline/data/photos/validation/quignone_the_cat_by_thomas_jarrand.webp"
TOKEN = "a token for this test alone"
PLACES, MEGABYTES = 4, 2
SHOWN = "before-after"
START_TIMEOUT_S, WAIT_MS = 300, 90_000


class Service:
    """jobs/serve.py in a process of its own."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, str(ROOT / "jobs/serve.py"), "--model", "anysr-tiny", "--port", "0"]
        command += ["--waiting", str(PLACES - 1), "--megabytes", str(MEGABYTES), "--megapixels-in", "0.5"]
        variables = {**os.environ, "ANYSR_SERVE_TOKEN": TOKEN, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
        self.folder = folder
        self.process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)
        self.url = self._announced()

    def _announced(self) -> str:
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and select.select([self.process.stdout], [], [], 1) is not None:
            line = self.process.stdout.readline()
            if found := re.search(r"page: (http://127\.0\.0\.1:\d+)/", line):
                return found[1]
            assert line, f"it ended with {self.process.wait()}"
        raise AssertionError("it did not start in time")

    def post(self, query: str, data: bytes) -> tuple[int, bytes, str | None]:
        """Status, body, Retry-After."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(f"{self.url}/upscale?{query}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read(), None
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers["Retry-After"]

    def family(self) -> list[psutil.Process]:
        myself = psutil.Process(self.process.pid)
        return [myself, *myself.children(recursive=True)]

    def memory(self) -> int:
        """Bytes that its processes hold, what they share counted once."""
        return sum(process.memory_full_info().pss for process in self.family() if process.is_running())


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    # Sockets lie below it, whose paths may have at most 107 characters.
    folder = Path("/tmp") / f"anysr-{os.getpid()}"
    folder.mkdir()
    running = Service(folder)
    yield running
    if running.process.poll() is None:
        running.process.terminate()
        running.process.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "cat.png"
    with Image.open(PHOTO) as image:
        image.convert("RGB").resize((160, 106), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])


class Visit:
    """A page that somebody came in to, and what went wrong on it."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.page: Page = context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.goto(url)
        self.page.fill("#token", TOKEN)
        # Being asked for the token is the one answer of 401, which Chromium calls an error.
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.click("button")
        self.page.wait_for_selector("#scale input[type=range]")

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def upload(self, path: Path) -> None:
        self.page.set_input_files("#photo input[type=file]", path)

    def replace(self, path: Path) -> None:
        self.page.click("#photo button[aria-label='Clear']")
        self.upload(path)

    def move(self, slider: str, value: str) -> None:
        self.page.locator(f"#{slider} input[type=range]").fill(value)

    def wait_for_size(self, width: int, height: int) -> None:
        """Until the enlargement itself is so large, not only what the page says of it."""
        self.page.wait_for_selector(f"{SHOWN}[width='{width}'][height='{height}']")
        self.page.wait_for_function(
            """([shown, width]) => document.querySelector(shown).shadowRoot.querySelector("[part=after]")
            .naturalWidth === width""",
            arg=[SHOWN, width],
        )

    def part(self, name: str):
        return self.page.locator(f"{SHOWN} [part={name}]")

    def download(self) -> bytes:
        with self.page.expect_download() as coming:
            self.part("download").click()
        return coming.value.path().read_bytes()


@pytest.fixture
def visit(browser, service, request) -> Iterator[Visit]:
    width, height = getattr(request, "param", (1280, 900))
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=width < 600)
    visit = Visit(context, service.url)
    yield visit
    assert visit.errors == []
    assert all(url.startswith((service.url, "data:", "blob:")) for url in visit.requests)
    context.close()


def expected(photo: Path, scale: float, subnet: int | str = "auto") -> bytes:
    request = Request(Enlargement(scale=(scale, scale)), subnet=subnet)
    return enlarge_file(Upscaler(anysr.load("anysr-tiny")), photo.read_bytes(), request, FORMATS["PNG"])[0]


def clipped(visit: Visit) -> float:
    """Pixels of the original that the divider hides."""
    style = visit.part("before").evaluate("image => image.style.clipPath")
    top, *others = re.findall(r"[\d.]+(?=px)", style)  # one number where all sides are alike
    return float(others[0] if others else top)


@pytest.mark.parametrize("visit", [(1280, 900), (390, 844)], indirect=True)
def test_a_photo_is_enlarged_compared_and_downloaded(visit, photo):
    visit.upload(photo)
    visit.wait_for_size(320, 212)
    visit.move("scale", "3.4")
    visit.wait_for_size(544, 360)
    assert visit.download() == expected(photo, 3.4)
    assert "subnet\n3" in visit.page.inner_text("#cost")
    visit.move("budget", "60")
    visit.page.wait_for_function("document.querySelector('#cost').innerText.includes('instead of 3')")
    assert visit.download() == expected(photo, 3.4, subnet=1)
    assert re.search(r"multiply-adds\n[\d.]+ G\nof the full network\n5\d %\ntime\n", visit.page.inner_text("#cost"))

    # One pixel of the picture on one of the screen; the whole of it; a divider that can be pulled.
    shown = visit.part("after")
    assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [544, 360]
    assert shown.evaluate("image => image.getBoundingClientRect().width") == 544
    before, box = clipped(visit), visit.part("divider").bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    visit.page.mouse.down()
    visit.page.mouse.move(box["x"] + box["width"] / 2 - 60, box["y"] + 40)
    visit.page.mouse.up()
    assert clipped(visit) == pytest.approx(before + 60, abs=1)
    visit.part("fitted").click()
    frame = visit.part("frame").bounding_box()
    assert shown.bounding_box()["width"] <= frame["width"]
    width = visit.page.viewport_size["width"]
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


def test_with_the_keyboard_alone(visit, photo):
    keys = visit.page.keyboard

    def tab_to(selector: str) -> None:
        for _ in range(40):
            keys.press("Tab")
            if visit.page.evaluate(FOCUSED, selector):
                return
        raise AssertionError(f"Tab never reaches {selector}")

    def chosen_by_key() -> FileChooser:
        # A button can have the focus before the page's script listens to it: whoever sits there presses again.
        for _ in range(WAIT_MS // 5_000):
            tab_to("#photo button")
            with suppress(PlaywrightTimeout):
                with visit.page.expect_file_chooser(timeout=5_000) as chooser:
                    keys.press("Enter")
                return chooser.value
        raise AssertionError("Enter opens no file chooser")

    chosen_by_key().set_files(photo)
    visit.wait_for_size(320, 212)
    visit.page.evaluate("document.activeElement.blur()")
    tab_to("#scale input[type=range]")
    for _ in range(5):
        keys.press("ArrowRight")
    visit.wait_for_size(328, 217)
    tab_to("#budget input[type=range]")
    keys.press("Home")
    visit.page.wait_for_function("document.querySelector('#cost').innerText.includes('narrowest subnet')")
    keys.press("End")
    visit.page.wait_for_function("!document.querySelector('#cost').innerText.includes('narrowest')")
    visit.wait_for_size(328, 217)
    tab_to("[part=fitted]")
    keys.press("Enter")
    tab_to("[part=download]")
    with visit.page.expect_download() as coming:
        keys.press("Enter")
    assert coming.value.suggested_filename == "cat_x2.05.png"
    tab_to("[part=divider]")
    before = clipped(visit)
    keys.press("ArrowLeft")
    assert clipped(visit) > before
    keys.press("End")
    assert clipped(visit) == 0


FOCUSED = """(selector) => {
  let one = document.activeElement;
  while (one.shadowRoot?.activeElement) one = one.shadowRoot.activeElement;
  return one.matches(selector);
}"""


def test_numbers_beyond_the_range_are_brought_back_with_a_word(visit, photo):
    visit.upload(photo)
    visit.wait_for_size(320, 212)
    field = visit.page.locator("#scale input[type=number]")
    field.press("ControlOrMeta+A")
    field.press("0")
    field.press("Enter")
    visit.page.get_by_text("From 1 to 8: 1 it is.").wait_for()
    assert field.input_value() == "1"
    visit.wait_for_size(160, 106)
    visit.move("scale", "2")
    visit.wait_for_size(320, 212)
    assert (field.input_value(), visit.page.get_by_text("it is.").count()) == ("2", 0)
    budget = visit.page.locator("#budget input[type=number]")
    budget.fill("900")
    budget.blur()
    visit.page.get_by_text("to 100: 100 it is.").wait_for()
    assert budget.input_value() == "100"


def test_what_cannot_be_enlarged_is_told(visit, photo, tmp_path):
    def file(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    visit.upload(file("cut.png", photo.read_bytes()[:-2000]))
    assert "cut short" in visit.page.wait_for_selector("[role=alert]").inner_text()
    visit.replace(file("text.png", b"no image at all"))
    visit.page.wait_for_function("document.querySelector('#cost').innerText.includes('not an image')")
    large = tmp_path / "large.png"
    Image.new("RGB", (1000, 501)).save(large)
    visit.replace(large)
    visit.page.wait_for_function("document.querySelector('#cost').innerText.includes('megapixels; at most 0.5')")
    visit.replace(photo)
    visit.wait_for_size(320, 212)
    visit.replace(file("heavy.png", bytes(MEGABYTES * 1_000_000 + 1)))
    visit.page.get_by_text(re.compile("maximum allowed size", re.IGNORECASE)).first.wait_for()
    visit.page.wait_for_selector(SHOWN, state="detached")
    visit.upload(photo)
    visit.wait_for_size(320, 212)


def test_of_fifty_requests_at_once_none_is_lost(service, photo):
    data, right = photo.read_bytes(), expected(photo, 2)
    service.post("scale=2", data)
    idle = service.memory()
    with ThreadPoolExecutor(51) as pool:
        coming = [pool.submit(service.post, "scale=2", data + bytes(10**6)) for _ in range(50)]
        peak = idle
        while not all(one.done() for one in coming):
            peak = max(peak, service.memory())
            time.sleep(0.1)
        answers = [one.result() for one in coming]
    count = Counter(status for status, _, _ in answers)
    assert count[200] + count[503] == 50
    assert count[200] >= PLACES
    assert all(body == right for status, body, _ in answers if status == 200)
    assert all(int(wait) > 0 for status, _, wait in answers if status == 503)
    assert peak - idle < 300 * 2**20
    assert service.post("scale=2", data)[:2] == (200, right)


def test_who_leaves_ends_the_work(service, photo):
    """The enlarger is free again long before the request that nobody waits for would have been done."""
    request = urllib.request.Request(
        f"{service.url}/upscale?scale=40", photo.read_bytes(), {"Authorization": f"Bearer {TOKEN}"}
    )
    with pytest.raises((TimeoutError, urllib.error.URLError)):
        urllib.request.urlopen(request, timeout=2)
    started = time.monotonic()
    assert service.post("scale=2", photo.read_bytes())[0] == 200
    assert time.monotonic() - started < 20


def test_ctrl_c_ends_everything(service):
    family = service.family()
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(60) == 130
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert list(service.folder.glob("anysr-page-*")) == []
