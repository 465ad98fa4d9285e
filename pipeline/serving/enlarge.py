"""One job in, its answer or the reason why there is none out: what runs in a worker process."""

from __future__ import annotations

import math
from dataclasses import replace

from anysr.cost import cost
from anysr.imaging import FORMATS, NoImageError, Picture, encode_image, upright_size
from anysr.model import AnySR
from anysr.upscaling import BudgetError, FileOptions, Limits, Request, Result, Upscaler, decode, enlarge_picture
from pipeline.errors import one_line
from pipeline.serving.limits import ServiceLimits
from pipeline.serving.requests import Answer, Job, Refusal

_TOO_LARGE, _NO_IMAGE, _UNFIT, _FAILED = 413, 415, 422, 500


def answer(upscaler: Upscaler, limits: ServiceLimits, job: Job) -> Answer | Refusal:
    """Enlarge within the limits; whatever is wrong with a file or a wish becomes a refusal of one line."""
    try:
        size = upright_size(job.data, limits.megapixels_in)
        if size is not None and (too_large := _too_large(size, job, limits)):
            return Refusal(_TOO_LARGE, too_large)
        return _enlarge(upscaler, limits, job)
    except NoImageError as error:
        return Refusal(_NO_IMAGE, one_line(error))
    except ValueError as error:  # a damaged image, a size, a budget
        return Refusal(_UNFIT, one_line(error))
    except MemoryError:
        return Refusal(_UNFIT, "memory ran out; enlarge less, or a smaller image")
    except Exception as error:
        return Refusal(_FAILED, f"unexpected {type(error).__name__}: {one_line(error)[:300]}")


def _too_large(size: tuple[int, int], job: Job, limits: ServiceLimits) -> str:
    """The reason, from the header alone; empty for none."""
    target = job.enlargement.resolve(size).size
    for (height, width), most, what in (
        (size, limits.megapixels_in, "the image has"),
        (target, limits.megapixels_out, "the enlargement would have"),
    ):
        if height * width > most * 1e6:
            megapixels = height * width / 1e6
            return f"{what} {width} x {height} pixels, {megapixels:.3g} megapixels; at most {most:g} are allowed"
    return ""


def _enlarge(upscaler: Upscaler, limits: ServiceLimits, job: Job) -> Answer:
    options = FileOptions(job.quality, max(limits.megapixels_in, limits.megapixels_out))  # headers may lie
    picture = decode(job.data, options)
    notes: tuple[str, ...] = ()
    request = Request(job.enlargement, Limits() if job.budget_is_share else Limits(macs=job.budget), job.subnet)
    if job.budget_is_share and job.budget is not None:
        request, notes = _with_share(upscaler, picture, request, job.budget, job.or_narrowest)
    original = encode_image(picture, FORMATS["PNG"])[0] if job.wants_original else None
    encoded, result = enlarge_picture(upscaler, picture, request, job.spec, options)
    enlarged = _as_answer(upscaler.model, encoded, original, result)
    return replace(enlarged, notes=(*notes, *enlarged.notes))


def _with_share(
    upscaler: Upscaler, picture: Picture, request: Request, share: float, or_narrowest: bool
) -> tuple[Request, tuple[str, ...]]:
    """The request with a share of the full network's multiply-adds as its budget, and what is to be told."""
    full, least = (upscaler.plan(picture, replace(request, subnet=subnet)).macs for subnet in ("full", 0))
    if least <= share * full:
        return replace(request, limits=Limits(macs=share * full)), ()
    percent = math.ceil(100 * least / full)
    if or_narrowest:
        return replace(request, subnet=0), (f"{100 * share:g} % is less than the narrowest subnet takes here: it ran",)
    raise BudgetError(
        f"no subnet is that cheap: here the narrowest takes {percent} % of the full "
        f"network's multiply-adds, more than {100 * share:g} %; give that much"
    )


def _as_answer(model: AnySR, encoded: bytes, original: bytes | None, result: Result) -> Answer:
    plan = result.plan
    full = plan.passes * cost(model, plan.lr_size, plan.target.scale, "full").macs
    return Answer(
        data=encoded,
        original=original,
        lr_size=plan.lr_size,
        size=plan.target.size,
        scale=plan.target.scale,
        subnet=plan.subnet.index,
        own_subnet=plan.own.index,
        macs=plan.macs,
        full_macs=full,
        executed_macs=plan.executed_macs,
        seconds=result.seconds,
        notes=result.picture.notes,
    )
