"""Rows as a report needs them: means over a suite's images, each with the rows that it is made of."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pipeline.errors import UserError
from pipeline.evaluation.costs import CostRow, read_costs
from pipeline.evaluation.environment import read_environments
from pipeline.evaluation.pictures import Picture, read_pictures
from pipeline.evaluation.protocols import is_exact, mean_score
from pipeline.evaluation.rows import Row
from pipeline.evaluation.scales import Scale
from pipeline.evaluation.upscalers import ANY_SCALE, INTERPOLATION, subject_of

FIELD_SCALES = (Scale(2, 2), Scale(3, 3), Scale(4, 4))


@dataclass(frozen=True)
class Model:
    """One of the evaluated models."""

    digest: str
    name: str
    kind: str


@dataclass(frozen=True)
class Mean:
    """A score averaged over the images of a suite.

    Attributes:
        number: of the figure in the report, by which its rows are found there.
        model: whose score.
        subnet: "auto" (†), "full" (‡) or an index.
        suite: the suite's name.
        scale: the scale.
        metric: "psnr", "ssim" or "lpips".
        values: image by image in the suite's order; None where there is no score.
    """

    number: int
    model: Model
    subnet: str
    suite: str
    scale: Scale
    metric: str
    values: tuple[float | None, ...]

    @property
    def value(self) -> float:
        """The mean; NaN where no image has a score."""
        scored = [value for value in self.values if value is not None]
        return mean_score(self.metric, scored) if scored else math.nan

    @property
    def is_exact(self) -> bool:
        """Whether every image came back as it was, as at ×1: no decibels tell how much better that is."""
        return is_exact(self.metric, self.value)


@dataclass(frozen=True)
class Book:
    """Everything that a report shows.

    Attributes:
        rows: the scores.
        costs: of the networks.
        pictures: crops.
        environments: where the rows were made, the latest last.
        means: by (digest, subnet, suite, scale, metric).
        images: names by suite.
    """

    rows: Sequence[Row]
    costs: Sequence[CostRow] = ()
    pictures: Sequence[Picture] = ()
    environments: Sequence[dict[str, object]] = ()
    means: dict[tuple[str, str, str, Scale, str], Mean] = field(init=False)
    images: dict[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        if not self.rows:
            raise UserError("there are no rows to report; run jobs/evaluate.py first")
        _check(self.rows)
        # The page is the same whether it is written after scoring or from the files, which know no order.
        object.__setattr__(self, "rows", sorted(self.rows, key=lambda row: row.key))
        named: dict[str, set[str]] = {}
        for row in self.rows:
            named.setdefault(row.suite, set()).add(row.image)
        images = {suite: sorted(named[suite]) for suite in sorted(named, key=lambda suite: (len(named[suite]), suite))}
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "means", _means(self.rows, images))

    @cached_property
    def suites(self) -> list[str]:
        """Their names, the smallest suite first."""
        return list(self.images)

    @cached_property
    def metrics(self) -> list[str]:
        """PSNR first."""
        found = {row.metric for row in self.rows}
        return [metric for metric in ("psnr", "ssim", "lpips") if metric in found]

    @cached_property
    def scales(self) -> list[Scale]:
        """All, the asymmetric ones last."""
        return sorted({Scale(r.scale_h, r.scale_w) for r in self.rows}, key=lambda s: (s.height != s.width, s))

    @cached_property
    def models(self) -> list[Model]:
        """Bicubic first, then the networks by name."""
        found = {Model(row.model_digest, row.model, row.kind) for row in self.rows}
        return sorted(found, key=lambda model: (model.kind != INTERPOLATION, model.name))

    def of_kind(self, kind: str) -> list[Model]:
        """Models of one kind; "fixed" for any factor."""
        return [model for model in self.models if model.kind == kind or (kind == "fixed" and "fixed" in model.kind)]

    @cached_property
    def bicubic(self) -> Model | None:
        """The baseline, where it was scored."""
        return next(iter(self.of_kind(INTERPOLATION)), None)

    @cached_property
    def subject(self) -> Model | None:
        """The network that the report is about, see :func:`pipeline.evaluation.upscalers.subject_of`."""
        return subject_of(self.models)

    @cached_property
    def originals(self) -> list[Model]:
        """Networks of any scale without subnets, to compare the subject with."""
        return [model for model in self.of_kind(ANY_SCALE) if model != self.subject]

    def mean(self, model: Model | None, subnet: str, suite: str, scale: Scale, metric: str = "psnr") -> Mean | None:
        """One figure; None where it was not asked for or every image failed."""
        found = None if model is None else self.means.get((model.digest, subnet, suite, scale, metric))
        return None if found is None or math.isnan(found.value) else found

    def cost(self, model: Model, subnet: str, scale: Scale) -> CostRow | None:
        """What the network costs there, if it was counted."""
        return next((c for c in self.costs if (c.model_digest, c.subnet, c.scale_h, c.scale_w)
                     == (model.digest, subnet, *scale.pair)), None)  # fmt: skip


def open_book(folder: Path, rows: Sequence[Row]) -> Book:
    """Some rows of a folder, with the costs, pictures and environments kept there."""
    digests = {row.model_digest for row in rows}
    costs = [cost for cost in read_costs(folder) if cost.model_digest in digests]
    pictures = [picture for picture in read_pictures(folder) if picture.model_digest in {*digests, ""}]
    return Book(rows, costs, pictures, read_environments(folder))


def _means(rows: Iterable[Row], images: dict[str, list[str]]) -> dict[tuple[str, str, str, Scale, str], Mean]:
    grouped: dict[tuple[str, str, str, Scale, str], dict[str, float | None]] = defaultdict(dict)
    models: dict[str, Model] = {}
    for row in rows:
        models[row.model_digest] = Model(row.model_digest, row.model, row.kind)
        key = (row.model_digest, row.subnet, row.suite, Scale(row.scale_h, row.scale_w), row.metric)
        grouped[key][row.image] = row.value
    means = {}
    for number, (key, values) in enumerate(grouped.items()):
        digest, subnet, suite, scale, metric = key
        by_image = tuple(values.get(image) for image in images[suite])
        means[key] = Mean(number, models[digest], subnet, suite, scale, metric, by_image)
    return means


def _check(rows: Sequence[Row]) -> None:
    """Refuse rows whose mean would mix what does not belong together."""
    made: dict[tuple[str, str], tuple[str, str]] = {}
    versions: dict[tuple[str, str, float, float], str] = {}
    names: dict[str, str] = {}
    for row in rows:
        if made.setdefault((row.suite, row.metric), (row.lr, row.protocol)) != (row.lr, row.protocol):
            raise UserError(f"{row.suite} was scored in several ways; choose one with --protocol and --lr")
        if versions.setdefault((row.suite, row.image, row.scale_h, row.scale_w), row.image_digest) != row.image_digest:
            raise UserError(f"{row.suite}: {row.image} was scored before and after a change; evaluate into a new --out")
        if names.setdefault(row.model, row.model_digest) != row.model_digest:
            raise UserError(f"two models are called {row.model}; name them with --model NAME=FILE, or use a new --out")
