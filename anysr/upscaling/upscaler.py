"""Pictures through the network: plane by plane, strip by strip, and again where it failed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from anysr.imaging.picture import Picture, Pixels
from anysr.model import AnySR
from anysr.upscaling.alpha import fill_hidden
from anysr.upscaling.plan import Plan, Precision, Request, TimePredictor, make_plan
from anysr.upscaling.retry import NotFiniteError, with_fallbacks
from anysr.upscaling.strips import Strips, ensemble_strips, network_strips

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Result:
    """An enlargement and how it came about.

    Attributes:
        picture: the enlargement, with the metadata of the original.
        plan: what was chosen and its cost.
        precision: in which it was computed in the end.
        tile: LR pixels a side of the windows in the end, "auto", or None for the whole image.
        seconds: from pixels to pixels.
    """

    picture: Picture
    plan: Plan
    precision: Precision
    tile: int | str | None
    seconds: float


class Upscaler:
    """A network on a device, ready for any number of pictures.

    It holds no state of a picture; the copies of the network in other precisions are kept.
    """

    def __init__(self, model: AnySR, device: str | torch.device = "cpu", profile: TimePredictor | None = None) -> None:
        self.device, self.profile = torch.device(device), profile
        self._models = {"fp32": copy.deepcopy(model).to(self.device, torch.float32).eval()}

    @property
    def model(self) -> AnySR:
        """The network in float32."""
        return self._models["fp32"]

    def plan(self, picture: Picture, request: Request) -> Plan:
        """What :meth:`enlarge` would choose, and its cost; raises as it does."""
        return make_plan(self.model, picture.size, len(_planes(picture)), _settled(request, picture), self.profile)

    @torch.inference_mode()
    def enlarge(self, picture: Picture, request: Request, progress: Progress | None = None) -> Result:
        """Enlarge a picture.

        Args:
            picture: from :func:`anysr.imaging.read_image`.
            request: how large and within which limits.
            progress: told now and then which share is done.

        Raises:
            BudgetError: no subnet fits the limits.
            ValueError: a size, scale or subnet out of range, or an answer that is not finite even in fp32.
            MemoryError: it ran out, with the given tile or the smallest one.
        """
        request, planes = _settled(request, picture), _planes(picture)
        plan = make_plan(self.model, picture.size, len(planes), request, self.profile)
        started = time.perf_counter()
        answers: list[Pixels] = []
        for number, plane in enumerate(planes):

            def report(share: float, done: int = number) -> None:
                if progress is not None:
                    progress((done + share) / len(planes))

            answer, request, notes = with_fallbacks(
                lambda asked, plane=plane, report=report: self._enlarge_plane(plane, picture, plan, asked, report),
                request,
                picture.size,
            )
            picture = replace(picture, notes=(*picture.notes, *notes))
            answers.append(answer)
        seconds = time.perf_counter() - started
        return Result(_joined(picture, answers, plan), plan, request.precision, request.tile, seconds)

    def _enlarge_plane(self, plane: Pixels, picture: Picture, plan: Plan, request: Request, report: Progress) -> Pixels:
        model = self._model(request.precision)
        lr = self._to_tensor(plane, picture)
        make = ensemble_strips if request.self_ensemble else network_strips
        strips = make(model, lr, plan, request.tile)
        return _quantised(strips, plan.target.size, plane.shape[2], picture.peak, report)

    def _model(self, precision: Precision) -> AnySR:
        if precision not in self._models:
            self._models[precision] = copy.deepcopy(self.model).to(_DTYPES[precision])
        return self._models[precision]

    def _to_tensor(self, plane: Pixels, picture: Picture) -> Tensor:
        """(1, 3, h, w) float32 in [0, 1], colours under transparency filled."""
        lr = torch.from_numpy(plane.astype(np.float32)).to(self.device).permute(2, 0, 1) / picture.peak
        if picture.alpha is not None and plane is not picture.alpha[..., None] and plane.base is not picture.alpha:
            alpha = torch.from_numpy(picture.alpha.astype(np.float32)).to(self.device)[None] / picture.peak
            lr = fill_hidden(lr, alpha)
        return lr.expand(3, -1, -1)[None].contiguous()
