"""The page's parts and what happens when one of them is touched."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from anysr.amounts import show_macs, show_seconds
from anysr.imaging import NAMES_READ
from anysr.upscaling import Enlargement
from pipeline.serving.limits import ServiceLimits
from pipeline.serving.page.facts import PageFacts
from pipeline.serving.page.shelf import KEPT_S, Shelf
from pipeline.serving.requests import Answer, Job, Refusal
from pipeline.serving.service import Service

_HERE = Path(__file__).parent
_SCRIPTS = ("before_after.js", "number_in_range.js", "upload_by_enter.js")
_SCALES, _FIRST_SCALE = (1.0, 8.0), 2.0
_SWEEP_S = 60
# Moving a slider fires many changes: wait for the hand to rest. Gradio loses changes that come meanwhile, therefore the
# sliders are read at the end of the wait.
_REST = """async (photo) => {
  await new Promise((done) => setTimeout(done, 200));
  const now = (id) => Number(document.querySelector(`#${id} input[type=range]`).value);
  return [photo, now("scale"), now("budget")];
}"""
_EMPTY = '<div class="empty"><p>Before and after appear here.</p></div>'


def build_page(service: Service, facts: PageFacts, shelf: Shelf) -> gr.Blocks:
    """The page."""
    limits = service.limits
    with gr.Blocks(title="AnySR", analytics_enabled=False, delete_cache=(_SWEEP_S, KEPT_S)) as page:
        gr.HTML(
            "<h1>AnySR</h1><p>Enlarges a photo by any factor, within a budget. "
            f"Network {html.escape(facts.model)}, {facts.num_subnets} subnets.</p>",
            elem_id="intro",
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                photo = gr.File(
                    label="Photo",
                    file_types=["image"],
                    height=150,
                    elem_id="photo",
                )
                scale = gr.Slider(
                    *_SCALES, _FIRST_SCALE, step=0.01, label="Scale", info="of both sides", elem_id="scale"
                )
                budget = gr.Slider(
                    facts.least_share,
                    100,
                    100,
                    step=1,
                    label="Budget in %",
                    info="of the full network's multiply-adds",
                    elem_id="budget",
                )
                cost = gr.HTML(elem_id="cost")
            with gr.Column(scale=3, min_width=340):
                view = gr.HTML(_EMPTY, elem_id="view")
        gr.HTML(f'<p class="note">{html.escape(_said(limits))}</p>')
        gr.on(
            [photo.upload, scale.change, budget.change],
            _handler(service, shelf),
            [photo, scale, budget],
            [view, cost],
            js=_REST,
            trigger_mode="always_last",
            concurrency_limit=None,  # the service counts
            show_progress_on=view,
            api_name="upscale",
        )
        photo.clear(lambda: (_EMPTY, ""), None, [view, cost], api_visibility="private")
    return page.queue(max_size=4 * service.gate.places)


def _said(limits: ServiceLimits) -> str:
    return (
        f"{NAMES_READ}, up to {limits.megabytes:g} MB and {limits.megapixels_in:g} megapixels; enlargements up to "
        f"{limits.megapixels_out:g} megapixels, within {show_seconds(limits.seconds)}. Uploads are deleted after "
        f"{KEPT_S // 60} minutes."
    )


def page_options(service: Service) -> dict[str, Any]:
    """How the page is mounted: nothing of it comes from other servers, nothing of it is kept by them."""
    return {
        "theme": gr.themes.Default(primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["monospace"]).set(
            slider_color="#0f766e", block_info_text_color="*body_text_color_subdued"
        ),
        "css": (_HERE / "page.css").read_text(),
        "head": "".join(f'<script type="module">{(_HERE / name).read_text()}</script>' for name in _SCRIPTS),
        "max_file_size": service.limits.max_bytes,
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "pwa": False,
        "mcp_server": False,
        "show_error": True,
    }


def _handler(service: Service, shelf: Shelf) -> Callable[..., Awaitable[tuple[str, str]]]:
    async def enlarge(photo: str | None, scale: float, budget: float) -> tuple[str, str]:
        if photo is None:
            return _EMPTY, ""
        file = Path(photo)

        async def job() -> Job:
            enlargement = Enlargement(scale=(scale, scale))
            wanted = Job(enlargement, file.read_bytes(), budget=budget / 100, budget_is_share=True)
            return replace(wanted, wants_original=True, or_narrowest=True)

        answer = await service.run(job)
        if isinstance(answer, Refusal):
            return _EMPTY, f'<p class="problem" role="alert">{html.escape(answer.reason)}</p>'
        return _shown(answer, f"{file.stem[:100]}_x{scale:g}.png", shelf), _priced(answer)

    return enlarge


def _shown(answer: Answer, name: str, shelf: Shelf) -> str:
    before, after = shelf.put({"before.png": answer.original or b"", name: answer.data})
    height, width = answer.size
    attributes = {"before": _url(before), "after": _url(after), "width": width, "height": height, "name": name}
    written = " ".join(f'{key}="{html.escape(str(value))}"' for key, value in attributes.items())
    return f"<before-after {written}></before-after>"


def _url(path: Path) -> str:
    return f"gradio_api/file={quote(str(path))}"


def _priced(answer: Answer) -> str:
    (h, w), (height, width) = answer.lr_size, answer.size
    instead = "" if answer.subnet == answer.own_subnet else f" instead of {answer.own_subnet}"
    rows = {
        "size": f"{width} × {height} pixels",
        "from": f"{w} × {h}",
        "subnet": f"{answer.subnet}{instead}",
        "multiply-adds": show_macs(answer.macs),
        "of the full network": f"{100 * answer.macs / answer.full_macs:.0f} %",
        "time": show_seconds(answer.seconds),
    }
    listed = "".join(f"<dt>{key}</dt><dd>{html.escape(value)}</dd>" for key, value in rows.items())
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in answer.notes)
    return f'<div role="status"><dl class="cost">{listed}</dl>{notes}</div>'
