"""What an evaluation scores: candidates, suites and scales, as units that can be done anywhere in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from pipeline.errors import UserError
from pipeline.evaluation.perceptual import LpipsAlex
from pipeline.evaluation.protocols import ScoringProtocol, protocol_for
from pipeline.evaluation.rows import Key
from pipeline.evaluation.scales import Scale
from pipeline.evaluation.suites import Suite
from pipeline.evaluation.upscalers import Upscaler

METRICS = ("psnr", "ssim", "lpips")


@dataclass(frozen=True)
class Candidate:
    """A model, and which of its subnets are scored: "auto" (†), "full" (‡) or indices."""

    upscaler: Upscaler
    subnets: tuple[str, ...]

    def subnets_at(self, scale: Scale, each: bool) -> tuple[str, ...]:
        """Those scored at one scale; none where the network cannot enlarge by it."""
        if not self.upscaler.serves(scale):
            return ()
        more = self.upscaler.subnets(["each"]) if each else ()
        return tuple(dict.fromkeys((*self.subnets, *more)))


@dataclass(frozen=True)
class Unit:
    """One image of a suite at one scale, and the scores of it that are wanted.

    Attributes:
        suite: index of the suite.
        image: index of the HR image.
    """

    suite: int
    image: int
    scale: Scale
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Evaluation:
    """What is to be scored.

    Attributes:
        candidates: the models.
        suites: folders of images.
        scales: the same for every suite.
        metrics: some of :data:`METRICS`.
        protocol: its name.
        lr: how LR images that are not given are made: "pil" or "matlab".
        lpips: the network behind that metric, where it is asked for.
        frontier: scales at which every subnet is scored, to weigh quality against cost.
    """

    candidates: tuple[Candidate, ...]
    suites: tuple[Suite, ...]
    scales: tuple[Scale, ...]
    metrics: tuple[str, ...] = ("psnr", "ssim")
    protocol: str = "liif"
    lr: str = "pil"
    lpips: LpipsAlex | None = None
    frontier: tuple[Scale, ...] = ()

    def __post_init__(self) -> None:
        unknown = set(self.metrics) - set(METRICS)
        if unknown or not self.metrics:
            raise UserError(f"metrics are {', '.join(METRICS)}, got {', '.join(sorted(unknown)) or 'none'}")
        names = [suite.name for suite in self.suites]
        if len({*names}) < len(names):
            raise UserError(f"every suite needs a name of its own, got {', '.join(names)}; write NAME=FOLDER")
        models = [candidate.upscaler.name for candidate in self.candidates]
        if len({*models}) < len(models):
            raise UserError(f"every model needs a name of its own, got {', '.join(models)}; write NAME=FILE")
        digests = [candidate.upscaler.digest for candidate in self.candidates]
        if len({*digests}) < len(digests):
            raise UserError(f"of {', '.join(models)} two are the same model; name each once")
        for model in (candidate.upscaler for candidate in self.candidates):
            if not any(model.serves(scale) for scale in self.scales):
                shown = ", ".join(f"x{scale}" for scale in self.scales[:10])
                raise UserError(f"{model.name} is {model.kind}, and the scales are {shown}; add its own to --scales")

    def units(self) -> list[Unit]:
        """Everything that is to be scored."""
        return list(self._units())

    def protocol_of(self, suite: Suite) -> ScoringProtocol:
        """How a suite is scored."""
        return protocol_for(self.protocol, suite.name)

    def on(self, device: torch.device) -> Evaluation:
        """The same with the networks on a device."""
        return replace(self, candidates=tuple(Candidate(c.upscaler.on(device), c.subnets) for c in self.candidates))

    def _units(self) -> Iterator[Unit]:
        for number, suite in enumerate(self.suites):
            for image in range(len(suite.hr)):
                for scale in self.scales:
                    yield Unit(number, image, scale, tuple(self._keys(suite, image, scale)))

    def _keys(self, suite: Suite, image: int, scale: Scale) -> Iterator[Key]:
        files = [suite.hr[image], suite.lr[scale][image]] if suite.lr else [suite.hr[image]]
        source = (suite.name, suite.image_name(image), _digest(files), scale.height, scale.width)
        made = ("given" if suite.lr else self.lr, self.protocol_of(suite).name)
        for candidate in self.candidates:
            for subnet in candidate.subnets_at(scale, scale in self.frontier):
                for metric in self.metrics:
                    yield Key(candidate.upscaler.digest, *source, *made, subnet, metric)


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
