"""Scores of one image at one scale: it is shrunk once for all models, and equal subnets are run once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property

from torch import Tensor

from pipeline.data.degrade import luma_8_bits, pair_sizes
from pipeline.data.photos import decode_rgb
from pipeline.errors import UserError, one_line
from pipeline.evaluation.plan import Evaluation, Unit
from pipeline.evaluation.rows import OK, Key, Row
from pipeline.evaluation.scales import Scale
from pipeline.evaluation.scoring import shrunk, value
from pipeline.evaluation.suites import Suite
from pipeline.evaluation.upscalers import Image, Upscaler, to_tensor

_FAILURES = (UserError, ValueError, RuntimeError, OSError, MemoryError)


def score(evaluation: Evaluation, unit: Unit) -> list[Row]:
    """The rows of a unit, in the order of its keys; whatever goes wrong becomes their status."""
    return _Scoring(evaluation, unit).rows()


def failed(evaluation: Evaluation, unit: Unit, reason: str) -> list[Row]:
    """Rows that say why a unit has no scores."""
    scoring = _Scoring(evaluation, unit)
    return [scoring.row(key, reason) for key in unit.keys]


class Scene:
    """An image of a suite at one scale, as LR and as the HR image that this shows."""

    def __init__(self, suite: Suite, image: int, scale: Scale, lr: str) -> None:
        self._suite, self._image, self._scale, self._lr = suite, image, scale, lr

    @cached_property
    def _pixels(self) -> Image:
        return decode_rgb(self._suite.hr[self._image], max_megapixels=float("inf"))

    @cached_property
    def colour(self) -> tuple[Image, Tensor]:
        """LR of 0 ... 255, (h, w, 3); HR in [0, 1], (3, H, W)."""
        if not self._suite.lr:
            return shrunk(self._pixels, self._scale, self._lr)
        _, (height, width) = pair_sizes((self._pixels.shape[0], self._pixels.shape[1]), self._scale.pair)
        lr = decode_rgb(self._suite.lr[self._scale][self._image], max_megapixels=float("inf"))
        return lr, to_tensor(self._pixels[:height, :width])

    @cached_property
    def grey(self) -> tuple[Image, Tensor]:
        """The same of the image's 8-bit luma; LR not rounded, (h, w, 1)."""
        return shrunk(luma_8_bits(self._pixels), self._scale, self._lr)


class _Scoring:
    def __init__(self, evaluation: Evaluation, unit: Unit) -> None:
        self._evaluation, self._unit = evaluation, unit
        self._suite = evaluation.suites[unit.suite]
        self._protocol = evaluation.protocol_of(self._suite)
        self._models = {c.upscaler.digest: c.upscaler for c in evaluation.candidates}
        self._scene = Scene(self._suite, unit.image, unit.scale, evaluation.lr)

    def rows(self) -> list[Row]:
        made = {key: self.row(key, result) for group in self._alike() for key, result in self._results(group)}
        return [made[key] for key in self._unit.keys]

    def _alike(self) -> list[list[Key]]:
        """Keys that one answer of a model serves."""
        groups: dict[tuple[str, str, bool], list[Key]] = {}
        for key in self._unit.keys:
            model = self._models[key.model_digest]
            same = (key.model_digest, model.index(key.subnet, self._unit.scale), self._on_luma(model, key.metric))
            groups.setdefault(same, []).append(key)
        return list(groups.values())

    def _on_luma(self, model: Upscaler, metric: str) -> bool:
        return model.on_luma and metric != "lpips" and self._protocol.channel == "y" and not self._suite.lr

    def _results(self, keys: list[Key]) -> Iterator[tuple[Key, float | str]]:
        model = self._models[keys[0].model_digest]
        on_luma = self._on_luma(model, keys[0].metric)
        try:
            lr, hr = self._scene.grey if on_luma else self._scene.colour
            sr = model.enlarge(lr, self._unit.scale, (hr.shape[1], hr.shape[2]), keys[0].subnet)
        except _FAILURES as error:
            yield from ((key, _reason(error)) for key in keys)
            return
        known: dict[str, float | str] = {}
        for key in keys:
            if key.metric not in known:
                known[key.metric] = self._value(key.metric, sr, hr, on_luma)
            yield key, known[key.metric]

    def _value(self, metric: str, sr: Tensor, hr: Tensor, on_luma: bool) -> float | str:
        protocol = self._protocol.of_grey() if on_luma else self._protocol
        try:
            return value(metric, sr, hr, self._unit.scale, protocol, self._evaluation.lpips)
        except _FAILURES as error:
            return _reason(error)

    def row(self, key: Key, result: float | str) -> Row:
        model = self._models[key.model_digest]
        border = (0, 0) if key.metric == "lpips" else self._protocol.border(self._unit.scale)
        words = self._protocol.words(key.metric, self._on_luma(model, key.metric))
        value, status = (None, result) if isinstance(result, str) else (result, OK)
        return Row(**asdict(key), model=model.name, kind=model.kind, scoring=words, border_h=border[0],
                   border_w=border[1], value=value, status=status)  # fmt: skip


def _reason(error: BaseException) -> str:
    return one_line(error).split(";")[0]
