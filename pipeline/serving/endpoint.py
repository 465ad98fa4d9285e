"""``POST /upscale``: an image file as the body, its enlargement as the answer; and what is said anywhere else."""

from __future__ import annotations

import json
from dataclasses import replace
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from starlette.exceptions import HTTPException

from anysr.imaging import FORMATS
from pipeline.errors import one_line
from pipeline.serving.requests import Answer, Job, Refusal, parse_job, single_values
from pipeline.serving.service import Service

PATH = "/upscale"
_UNFIT, _NO_IMAGE, _NOT_ALLOWED = 422, 415, 405
_OTHER_METHODS = ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")
_PAGES_OWN = "/gradio_api/"  # whose script reads answers of another form
_MEDIA_TYPES = {name: f"image/{name.lower()}" for name in FORMATS}


def add_endpoint(app: FastAPI, service: Service) -> None:
    """Serve enlargements at :data:`PATH`."""

    @app.post(PATH)
    @app.post(f"{PATH}/")
    async def upscale(request: Request) -> Response:
        if request.headers.get("content-type", "").startswith("multipart/"):
            return refused(Refusal(_NO_IMAGE, "send the file itself as the body: curl --data-binary @photo.jpg"))
        try:
            job = parse_job(single_values(request.query_params.multi_items()))
        except ValueError as error:
            return refused(Refusal(_UNFIT, one_line(error)))

        async def with_file() -> Job:
            return replace(job, data=await request.body())

        answer = await service.run(with_file)
        if isinstance(answer, Refusal):
            return refused(answer)
        return Response(answer.data, headers=_cost_of(answer), media_type=_MEDIA_TYPES[job.format])

    @app.api_route(PATH, methods=[*_OTHER_METHODS])
    @app.api_route(f"{PATH}/", methods=[*_OTHER_METHODS])
    async def not_allowed() -> Response:
        answer = refused(
            Refusal(_NOT_ALLOWED, "send the image file as the body of a POST: curl --data-binary @photo.jpg")
        )
        answer.headers["Allow"] = "POST"
        return answer


async def told_where(request: Request, error: Exception) -> Response:
    """The answer where nothing is served, or not by this method."""
    assert isinstance(error, HTTPException)
    if _PAGES_OWN in request.url.path:
        return await http_exception_handler(request, error)
    answer = refused(Refusal(error.status_code, f"{error.detail.lower()}; the endpoint is POST {PATH}"))
    answer.headers.update(error.headers or {})
    return answer


def refused(refusal: Refusal) -> Response:
    """As HTTP says it, with the reason in one line."""
    headers = {} if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
    body = json.dumps({"error": refusal.reason}, ensure_ascii=False) + "\n"
    return Response(body, refusal.status, headers, "application/json")


def _cost_of(answer: Answer) -> dict[str, str]:
    height, width = answer.size
    return {
        "AnySR-Size": f"{width}x{height}",
        "AnySR-Scale": "x".join(f"{factor:g}" for factor in answer.scale),
        "AnySR-Subnet": str(answer.subnet),
        "AnySR-Own-Subnet": str(answer.own_subnet),
        "AnySR-Multiply-Adds": str(answer.macs),
        "AnySR-Multiply-Adds-Full-Network": str(answer.full_macs),
        "AnySR-Multiply-Adds-Executed": str(answer.executed_macs),
        "AnySR-Seconds": f"{answer.seconds:.4f}",
        **({"AnySR-Notes": quote("; ".join(answer.notes), safe=" ;:,()")} if answer.notes else {}),
    }
