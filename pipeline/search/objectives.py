"""What a trial is judged by, and how much it may train."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import TrainingConfig
from pipeline.data.draws import ScaleGroupSampler


@dataclass(frozen=True)
class Objectives:
    """The two goals, which pull in opposite directions.

    Attributes:
        psnr: mean over the validation scales and photos, own subnet, in dB; more is better.
        macs: mean multiply-adds of one image over the scale range, see ``anysr.cost.mean_macs``; less is better.
    """

    psnr: float
    macs: float

    def dominates(self, other: Objectives) -> bool:
        """No worse in both and better in one."""
        return self != other and self.psnr >= other.psnr and self.macs <= other.macs

    def score(self, db_per_doubling: float) -> float:
        """PSNR in dB less the price of the multiply-adds: ``db_per_doubling`` for each doubling from 1 G."""
        return self.psnr - db_per_doubling * math.log2(self.macs / 1e9)


def pareto_front(points: Sequence[Objectives]) -> list[int]:
    """Indices of the points that no other dominates, the cheapest first; of equal points the first."""
    front = [
        i
        for i, point in enumerate(points)
        if not any(other.dominates(point) for other in points) and point not in points[:i]
    ]
    return sorted(front, key=lambda i: points[i].macs)


def step_macs(config: TrainingConfig) -> float:
    """Expected multiply-adds of one training step's forward passes, by the probabilities of groups and widths.

    Backward passes cost about twice that for every network, so they change no ratio.
    """
    return config.train.batch_size * ScaleGroupSampler(config).expected_macs()


def steps_for(config: TrainingConfig, budget_macs: float) -> int:
    """The steps that spend a budget of :func:`step_macs`, at least one: what makes trials comparable."""
    return max(1, round(budget_macs / step_macs(config)))
