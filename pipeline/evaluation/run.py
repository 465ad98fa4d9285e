"""One evaluation: which scores are missing, making them, and keeping them as they come."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from torch import Tensor

from pipeline.data.degrade import RESIZERS, lr_hr_pair, luma_8_bits, pair_sizes
from pipeline.data.photos import decode_rgb
from pipeline.errors import UserError, one_line
from pipeline.evaluation.perceptual import LpipsAlex
from pipeline.evaluation.protocols import ScoringProtocol, protocol_for
from pipeline.evaluation.rows import Key, Row, RowStore
from pipeline.evaluation.scales import Scale
from pipeline.evaluation.suites import Suite
from pipeline.evaluation.upscalers import Image, Upscaler, to_tensor

METRICS = ("psnr", "ssim", "lpips")
_EVERY_S = 5.0
_FAILURES = (UserError, ValueError, RuntimeError, OSError, MemoryError)


@dataclass(frozen=True)
class Evaluation:
    """What is to be scored.

    Attributes:
        upscaler: the model.
        suites: folders of images.
        scales: the same for every suite.
        subnets: "auto", "full" or indices.
        metrics: some of :data:`METRICS`.
        protocol: its name.
        lr: how LR images that are not given are made: "pil" or "matlab".
        lpips: the network behind that metric, where it is asked for.
    """

    upscaler: Upscaler
    suites: tuple[Suite, ...]
    scales: tuple[Scale, ...]
    subnets: tuple[str, ...]
    metrics: tuple[str, ...] = ("psnr", "ssim")
    protocol: str = "liif"
    lr: str = "pil"
    lpips: LpipsAlex | None = None

    def __post_init__(self) -> None:
        unknown = set(self.metrics) - set(METRICS)
        if unknown or not self.metrics:
            raise UserError(f"metrics are {', '.join(METRICS)}, got {', '.join(sorted(unknown)) or 'none'}")
        names = [suite.name for suite in self.suites]
        if len({*names}) < len(names):
            raise UserError(f"every suite needs a name of its own, got {', '.join(names)}; write NAME=FOLDER")
        first = protocol_for(self.protocol, "")
        if first.luma_first and (self.lr != "matlab" or any(suite.lr for suite in self.suites)):
            raise UserError(f"the protocol {first.name} shrinks luma as MATLAB does; use it with --lr matlab alone")

    def tasks(self) -> Iterator[Task]:
        """One task per suite and image."""
        for suite in self.suites:
            protocol = protocol_for(self.protocol, suite.name)
            yield from (Task(self, suite, protocol, index) for index in range(len(suite.hr)))


@dataclass(frozen=True)
class Task:
    """One image of a suite, at every scale, subnet and metric."""

    evaluation: Evaluation
    suite: Suite
    protocol: ScoringProtocol
    index: int

    def wanted(self) -> Iterator[tuple[Scale, list[Key]]]:
        """What is to be scored, by scale."""
        run, suite, hr = self.evaluation, self.suite, self.suite.hr[self.index]
        for scale in run.scales:
            files = [hr, suite.lr[scale][self.index]] if suite.lr else [hr]
            image = (suite.name, suite.image_name(self.index), _digest(files))
            made = ("given" if suite.lr else run.lr, self.protocol.name)
            wanted = [(subnet, metric) for subnet in run.subnets for metric in run.metrics]
            yield scale, [Key(run.upscaler.digest, *image, scale.height, scale.width, *made, *one) for one in wanted]

    def score(self, scale: Scale, keys: Sequence[Key]) -> Iterator[Row]:
        """Rows for ``keys`` at one scale; whatever goes wrong becomes their status."""
        try:
            lr, hr = self._images(scale)
        except _FAILURES as error:
            yield from (self._row(key, scale, None, error) for key in keys)
            return
        for subnet in dict.fromkeys(key.subnet for key in keys):
            mine = [key for key in keys if key.subnet == subnet]
            try:
                sr = self.evaluation.upscaler.enlarge(lr, scale, (hr.shape[1], hr.shape[2]), subnet)
            except _FAILURES as error:
                yield from (self._row(key, scale, None, error) for key in mine)
                continue
            for key in mine:
                try:
                    yield self._row(key, scale, self._value(key.metric, sr, hr, scale))
                except _FAILURES as error:
                    yield self._row(key, scale, None, error)

    def _images(self, scale: Scale) -> tuple[Image, Tensor]:
        pixels: Image = decode_rgb(self.suite.hr[self.index], max_megapixels=float("inf"))
        if self.protocol.luma_first:
            pixels = luma_8_bits(pixels)
        if not self.suite.lr:
            lr, hr = lr_hr_pair(pixels, scale.pair, RESIZERS[self.evaluation.lr])
            return lr, to_tensor(hr)
        _, (height, width) = pair_sizes((pixels.shape[0], pixels.shape[1]), scale.pair)
        lr = decode_rgb(self.suite.lr[scale][self.index], max_megapixels=float("inf"))
        return lr, to_tensor(pixels[:height, :width])

    def _value(self, metric: str, sr: Tensor, hr: Tensor, scale: Scale) -> float:
        if metric == "lpips":
            assert self.evaluation.lpips is not None
            return self.evaluation.lpips(sr, hr, rounded=self.protocol.rounded)
        return self.protocol.psnr(sr, hr, scale) if metric == "psnr" else self.protocol.ssim(sr, hr, scale)

    def _row(self, key: Key, scale: Scale, value: float | None, error: BaseException | None = None) -> Row:
        whole = key.metric == "lpips"
        border = (0, 0) if whole else self.protocol.border(scale)
        words = f"{self.protocol.name}: whole RGB image" if whole else str(self.protocol)
        status = "ok" if error is None else one_line(error).split(";")[0]
        return Row(**asdict(key), model=self.evaluation.upscaler.name, scoring=words, border_h=border[0],
                   border_w=border[1], value=value, status=status)  # fmt: skip


def evaluate(evaluation: Evaluation, store: RowStore, say: Callable[[str], None]) -> list[Row]:
    """Make the scores that ``store`` lacks; all of them, in the order asked for."""
    work = [(task, scale, keys) for task in evaluation.tasks() for scale, keys in task.wanted()]
    missing = [(task, scale, left) for task, scale, keys in work if (left := [k for k in keys if k not in store])]
    if len(missing) < len(work):
        say(f"{len(work) - len(missing)} of {len(work)} images and scales are there already")
    start = shown = time.monotonic()
    for done, (task, scale, keys) in enumerate(missing, start=1):
        store.add(task.score(scale, keys))
        now = time.monotonic()
        if now - shown > _EVERY_S or done == len(missing):
            left_s = (now - start) / done * (len(missing) - done)
            say(f"{done}/{len(missing)}  {task.suite.name} x{scale}  about {left_s:.0f} s left")
            shown = now
    return [store[key] for _, _, keys in work for key in keys]


def _digest(files: Sequence[Path]) -> str:
    """Of the contents, so that a replaced image is scored again."""
    try:
        parts = [_file_digest(path, path.stat().st_mtime_ns) for path in files]
    except OSError:
        return "unreadable"
    return parts[0][:16] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


@cache
def _file_digest(path: Path, mtime_ns: int) -> str:  # noqa: ARG001
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
