"""The ASGI application that one Serve replica runs: page and endpoint over the enlargers behind them."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI
from starlette.types import ASGIApp

from pipeline.serving.access import BodyLimit, TokenRequired
from pipeline.serving.endpoint import add_endpoint, told_where
from pipeline.serving.hearing import HeardOut
from pipeline.serving.limits import Gate, ServiceLimits
from pipeline.serving.page.facts import PageFacts
from pipeline.serving.requests import Answer, Job, Refusal
from pipeline.serving.service import Service

_SHELF_BYTES = 10**9
_NOWHERE = (404, 405)
_HEARD_OUT = 4  # times the largest body allowed


@dataclass(frozen=True)
class Settings:
    """What the application is made of.

    Attributes:
        limits: of each request.
        replicas: enlargers behind it.
        facts: what the page says.
        token_sha256: of the token that visitors must show; None lets everybody in.
    """

    limits: ServiceLimits
    replicas: int
    facts: PageFacts
    token_sha256: str | None


def build_application(settings: Settings, enlarge: Callable[[Job], Awaitable[Answer | Refusal]]) -> ASGIApp:
    """Page and endpoint; ``enlarge`` is as for :class:`Service`."""
    import gradio

    from pipeline.serving.page.build import build_page, page_options
    from pipeline.serving.page.shelf import KEPT_S, Shelf

    service = Service(enlarge, settings.limits, settings.replicas)
    app = FastAPI(openapi_url=None)
    add_endpoint(app, service)
    # Gradio serves files of its upload folder only.
    folder = Path(gradio.utils.get_upload_folder())
    folder.mkdir(parents=True, exist_ok=True)
    shelf = Shelf(Path(tempfile.mkdtemp(prefix="results-", dir=folder)), _SHELF_BYTES, KEPT_S)
    page, elsewhere = build_page(service, settings.facts, shelf), dict.fromkeys(_NOWHERE, told_where)
    gradio.mount_gradio_app(app, page, "/", app_kwargs={"exception_handlers": elsewhere}, **page_options(service))
    outer: ASGIApp = BodyLimit(app, settings.limits.max_bytes, Gate(service.gate.places))
    if settings.token_sha256 is not None:
        outer = TokenRequired(outer, settings.token_sha256)
    return HeardOut(outer, _HEARD_OUT * settings.limits.max_bytes)
