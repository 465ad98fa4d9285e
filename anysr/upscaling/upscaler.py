"""Pictures through the network: plane by plane, strip by strip, and again where it failed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from anysr.amounts import rounded_up, show_bytes
from anysr.imaging.picture import Picture, Pixels
from anysr.model import AnySR
from anysr.upscaling.limits import BudgetError
from anysr.upscaling.memory import fitting_tile, peak_bytes
from anysr.upscaling.plan import Plan, Precision, Request, TimePredictor, make_plan
from anysr.upscaling.planes import Plane, joined, planes_of
from anysr.upscaling.retry import with_fallbacks
from anysr.upscaling.strips import answer_strips

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Result:
    """An enlargement and how it came about.

    Attributes:
        picture: the enlargement, with the metadata of the original.
        plan: what was chosen and its cost.
        request: as it succeeded in the end, in that precision and tile.
        seconds: from pixels to pixels.
    """

    picture: Picture
    plan: Plan
    request: Request
    seconds: float


class Upscaler:
    """A network on a device, ready for any number of pictures.

    It keeps nothing of a picture, only copies of the network in the precisions that were asked for; the
    given network stays as it is.
    """

    def __init__(self, model: AnySR, device: str | torch.device = "cpu", profile: TimePredictor | None = None) -> None:
        self.device, self.profile = torch.device(device), profile
        self._models: dict[Precision, AnySR] = {"fp32": copy.deepcopy(model).to(self.device, torch.float32).eval()}

    @property
    def model(self) -> AnySR:
        """The network in float32."""
        return self._models["fp32"]

    def plan(self, picture: Picture, request: Request) -> Plan:
        """What :meth:`enlarge` would choose, and its cost; raises as it does."""
        return self._plan(picture, _settled(request, picture), planes_of(picture))

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
        settled, planes = _settled(request, picture), planes_of(picture)
        plan = self._plan(picture, settled, planes)
        settled = self._within_memory(settled, plan, picture)
        if request.limits.seconds is not None:
            self._warm_up(plan, settled)
        started = time.perf_counter()

        def attempt(asked: Request) -> list[Pixels]:
            return [
                self._enlarge(plane, plan, asked, _Share(progress, i, len(planes))) for i, plane in enumerate(planes)
            ]

        answers, reached, notes = with_fallbacks(attempt, settled, tile_is_free=request.tile == "auto")
        enlarged = joined(picture, answers)
        seconds = time.perf_counter() - started
        if settled.precision != request.precision:
            notes.append("16 bits need fp32")
        return Result(replace(enlarged, notes=(*picture.notes, *notes)), plan, reached, seconds)

    def _plan(self, picture: Picture, request: Request, planes: list[Plane]) -> Plan:
        return make_plan(self.model, picture.size, len(planes), request, self.profile)

    def _within_memory(self, request: Request, plan: Plan, picture: Picture) -> Request:
        """With the tile that keeps to the limit on memory."""
        limit = request.limits.memory
        if limit is None:
            return request
        pixel_bytes = picture.colour.itemsize * (picture.colour.shape[2] + (picture.alpha is not None))
        if request.tile == "auto":
            tile, needed = fitting_tile(self.model, plan, request.precision, pixel_bytes, limit)
        else:
            needed = peak_bytes(self.model, plan, request.precision, request.tile, pixel_bytes)
            tile = request.tile
        if needed > limit:
            least = show_bytes(rounded_up(needed / 2**20) * 2**20)
            raise BudgetError(
                f"{plan.lr_size[1]} x {plan.lr_size[0]} to {plan.target.size[1]} x {plan.target.size[0]} takes "
                f"{least} of memory (limit {rounded_up(needed / 2**20):.0f}M); give that much, or enlarge less"
            )
        return replace(request, tile=tile)

    def _enlarge(self, plane: Plane, plan: Plan, request: Request, share: _Share) -> Pixels:
        """(H, W, 1 or 3), filled strip by strip."""
        height, width = plan.target.size
        out = np.empty((height, width, plane.values.shape[2]), plane.values.dtype)
        lr, model = plane.to_tensor(self.device), self._in_precision(request.precision)
        before = 1.0 if request.self_ensemble else _encoders_share(model, plan)

        def tell(done: float) -> None:
            share.tell(before * done)

        subnet, ensemble = plan.subnet.index, request.self_ensemble
        for rows in answer_strips(model, lr, plan.target, subnet, request.tile, ensemble=ensemble, progress=tell):
            bottom = rows.top + rows.rgb.shape[1]
            out[rows.top : bottom] = plane.to_pixels(rows.rgb)
            share.tell(before + (1 - before) * bottom / height)
        return out

    def _warm_up(self, plan: Plan, request: Request) -> None:
        """First calls choose kernels and lay out weights: not what a limit on time is about."""
        tiny = torch.zeros(1, 3, 16, 16, device=self.device)
        model = self._in_precision(request.precision)
        for _ in model.strips(tiny, plan.target.scale, subnet=plan.subnet.index):
            pass

    def _in_precision(self, precision: Precision) -> AnySR:
        if precision not in self._models:
            self._models[precision] = copy.deepcopy(self.model).to(_DTYPES[precision])
        return self._models[precision]


@dataclass(frozen=True)
class _Share:
    """Which part of the whole one plane is."""

    progress: Progress | None
    index: int
    count: int

    def tell(self, done: float) -> None:
        if self.progress is not None:
            self.progress((self.index + done) / self.count)


def _encoders_share(model: AnySR, plan: Plan) -> float:
    """Of the work; the first strip comes when all is encoded."""
    return model.encoder.macs(plan.lr_size, plan.subnet.encoder_channels) * plan.passes / plan.executed_macs


def _settled(request: Request, picture: Picture) -> Request:
    """Half precision has fewer digits than a 16-bit picture."""
    return replace(request, precision="fp32") if picture.peak > 255 else request
