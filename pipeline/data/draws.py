"""What each step trains: a scale group, a scale inside it, and which of the nested networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

import anysr
from anysr.geometry import Pair
from pipeline.config import TrainingConfig

_GROUP_STREAM = 0  # of the independent random streams of one seed; those of crops are in samples.py


@dataclass(frozen=True)
class Draw:
    """What a step trains on one part of its batch, the same on every worker.

    Attributes:
        group: index of the scale group.
        scale: (s_h, s_w) of all crops; the larger is inside the group.
        subnets: indices of the networks trained on them, each once, widest first.
    """

    group: int
    scale: Pair
    subnets: tuple[int, ...]

    def scale_text(self, digits: int) -> str:
        """As in x2.50, or x2.50x1.30 (height x width)."""
        height, width = (f"x{factor:.{digits}f}" for factor in self.scale)
        return height if self.scale[0] == self.scale[1] else height + width


class ScaleGroupSampler:
    """Draws a group, a scale inside it, and the networks to train, for each part of a step's batch."""

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config
        self._groups = config.model.subnets
        sampling = config.sampling
        by_group = sampling.full_width_probability
        self._full_width = by_group if isinstance(by_group, tuple) else (by_group,) * len(self._groups)
        if sampling.group_weights == "cost":
            weights = 1 / np.array([self._expected_macs(group) for group in range(len(self._groups))])
        else:
            weights = np.asarray(sampling.group_weights or [1.0] * len(self._groups))
        self.probabilities = weights / weights.sum()

    def draws(self, step: int) -> tuple[Draw, ...]:
        """What a step trains: its batch is divided evenly among these draws, a pure function of seed and step.

        Returns:
            With ``sampling.groups_per_step`` "one" a single draw, of a group by ``probabilities``; with "all" one draw
            of each group, in the order of the groups.
        """
        key = (self._config.train.seed, _GROUP_STREAM, step)
        if self._config.sampling.groups_per_step == "all":
            return tuple(self._draw(group, np.random.default_rng((*key, group))) for group in range(len(self._groups)))
        rng = np.random.default_rng(key)
        return (self._draw(int(rng.choice(len(self._groups), p=self.probabilities)), rng),)

    def _draw(self, group: int, rng: np.random.Generator) -> Draw:
        low, high = self._groups[group].scales
        scale = float(self._config.factor or rng.uniform(low, high))
        full_width = bool(rng.random() < self._full_width[group])
        subnets = self._subnets(group, full_width)
        if rng.random() < self._config.sampling.random_width_probability:
            subnets = (int(rng.integers(len(self._groups))),)
        if group == 0 and rng.random() < self._config.sampling.lowest_scale_probability:
            scale = float(self._config.factor or low)
        if rng.random() < self._config.sampling.asymmetric_probability:
            other = float(rng.uniform(self._groups[0].scales[0], scale))
            return Draw(group, (scale, other) if rng.random() < 0.5 else (other, scale), subnets)
        return Draw(group, (scale, scale), subnets)

    def expected_macs(self) -> float:
        """Multiply-adds of one crop's forward passes in a step, in the mean over all draws."""
        return float(sum(p * self._expected_macs(group) for group, p in enumerate(self.probabilities)))

    def _subnets(self, group: int, full_width: bool) -> tuple[int, ...]:
        full = len(self._groups) - 1
        chosen = {
            "one": {full if full_width else group},
            "pair": {full, group},
            "sandwich": {full, group, 0},
        }[self._config.sampling.widths]
        return tuple(sorted(chosen, reverse=True))

    def _expected_macs(self, group: int) -> float:
        narrow, wide = (
            sum(self._crop_macs[subnet] for subnet in self._subnets(group, full_width)) for full_width in (False, True)
        )
        drawn = narrow + self._full_width[group] * (wide - narrow)
        anyone = sum(self._crop_macs) / len(self._groups)
        return drawn + self._config.sampling.random_width_probability * (anyone - drawn)

    @cached_property
    def _crop_macs(self) -> tuple[int, ...]:
        return crop_macs(self._config)


def crop_macs(config: TrainingConfig) -> tuple[int, ...]:
    """Multiply-adds of one training crop's forward pass through each subnet, in the form that runs."""
    with torch.device("meta"):
        model = anysr.build(config.model)
    side, queries = config.data.lr_crop_px, config.data.queries_per_crop
    size = (queries, 1) if config.factor is None else (side * config.factor, side * config.factor)
    return tuple(
        model.encoder.macs((side, side), subnet.encoder_channels)
        + model.decoder.executed_macs((side, side), size, subnet.decoder_channels)
        for subnet in model.subnets
    )
