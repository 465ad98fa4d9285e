"""``POST /upscale``: an image file as the body, its enlargement as the answer."""

from __future__ import annotations

import json
from dataclasses import replace
from urllib.parse import quote

from fastapi import FastAPI, Request, Response

from anysr.imaging import FORMATS
from pipeline.errors import one_line
from pipeline.serving.requests import Answer, Job, Refusal, parse_job
from pipeline.serving.service import Service

PATH = "/upscale"
_UNFIT, _NO_IMAGE = 422, 415
_MEDIA_TYPES = {name: f"image/{name.lower()}" for name in FORMATS}


def add_endpoint(app: FastAPI, service: Service) -> None:
    """Serve enlargements at :data:`PATH`."""

    @app.post(PATH)
    async def upscale(request: Request) -> Response:
        if request.headers.get("content-type", "").startswith("multipart/"):
            return refused(Refusal(_NO_IMAGE, "send the file itself as the body: curl --data-binary @photo.jpg"))
        try:
            job = parse_job(request.query_params)
        except ValueError as error:
            return refused(Refusal(_UNFIT, one_line(error)))

        async def with_file() -> Job:
            return replace(job, data=await request.body())

        answer = await service.run(with_file)
        if isinstance(answer, Refusal):
            return refused(answer)
        return Response(answer.data, headers=_cost_of(answer), media_type=_MEDIA_TYPES[job.format])


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
