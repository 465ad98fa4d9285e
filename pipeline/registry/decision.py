"""Whether a network may take the champion's place: the rule, apart from where its figures come from."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

GROUP_SCALES = 3
"""Scales at which each scale group is compared, unless scales are given."""


@dataclass(frozen=True)
class Difference:
    """Two networks at one scale on one suite, each through its own subnet.

    Attributes:
        suite: its name.
        group: [low, high) of the scale group, a part of a group of both networks.
        scale: as text, "2" or "2x3.1".
        old: PSNR of the present network, mean over the suite's images, in dB.
        new: that of the other.
    """

    suite: str
    group: tuple[float, float]
    scale: str
    old: float
    new: float

    @property
    def gain(self) -> float:
        """What the other is better by, in dB."""
        return self.new - self.old

    @property
    def group_name(self) -> str:
        """The group as people write it."""
        return group_name(self.group)


@dataclass(frozen=True)
class Comparison:
    """All differences of two networks.

    Attributes:
        differences: at every suite and scale.
        old_macs: see ``anysr.cost.mean_macs``, of the present network.
        new_macs: of the other, over the same range of scales.
        protocol: how the scores were made.
        only_factor: the one factor of the new network, where the present one serves others too.
        uncompared: scale groups of either network that none of the scales lies in.
    """

    differences: tuple[Difference, ...]
    old_macs: float
    new_macs: float
    protocol: str
    only_factor: int | None = None
    uncompared: tuple[tuple[float, float], ...] = ()

    @property
    def worst(self) -> Difference | None:
        """Where the new network is the least better."""
        return min(self.differences, key=lambda difference: difference.gain, default=None)


def group_name(group: tuple[float, float]) -> str:
    """A scale group as people write it."""
    return f"x{group[0]:g}-{group[1]:g}"


def shared_groups(old: Sequence[float], new: Sequence[float]) -> list[tuple[float, float]]:
    """Scale groups fine enough for two networks: no edge of either lies inside one.

    Args:
        old: edges of the present network's groups, from its lowest scale to its highest.
        new: those of the other.
    """
    low, high = min(old[0], new[0]), max(old[-1], new[-1])
    edges = sorted({low, high, *(edge for edge in (*old, *new) if low < edge < high)})
    return list(itertools.pairwise(edges))


def scales_inside(group: tuple[float, float]) -> tuple[float, ...]:
    """Scales spread over a group, without its ends: the highest is the next group's, and ×1 enlarges nothing."""
    low, high = group
    return tuple(round(low + (high - low) * (i + 0.5) / GROUP_SCALES, 2) for i in range(GROUP_SCALES))


def objections(comparison: Comparison, margin_db: float, cost_margin: float = 0.0) -> list[str]:
    """Why the new network must not take the present one's place; empty if it may.

    It may if it serves all scales that the present one does, if it was compared in every group, if it is not worse by
    more than ``margin_db`` at any scale of any group on any suite, and if its multiply-adds exceed the present one's by
    no more than the fraction ``cost_margin``. What is no number is never good enough.
    """
    worse: dict[tuple[str, tuple[float, float]], list[Difference]] = defaultdict(list)
    for difference in comparison.differences:
        # To five decimals: 30.05 - 30.1 is to be -0.05.
        if not round(difference.gain + margin_db, 5) >= 0:
            worse[difference.suite, difference.group].append(difference)
    reasons = [_worse(differences, margin_db) for differences in worse.values()]
    if comparison.only_factor is not None:
        reasons.append(f"it enlarges by x{comparison.only_factor} alone, and the champion by other factors as well")
    if comparison.uncompared:
        groups = ", ".join(map(group_name, comparison.uncompared))
        reasons.append(f"no scale of {groups} was compared; give --scales one in each scale group, or leave it out")
    allowed = comparison.old_macs * (1 + cost_margin)
    if not comparison.new_macs <= allowed * (1 + 1e-9):
        reasons.append(
            f"it costs {comparison.new_macs / 1e9:.4g} G multiply-adds, mean over the scales, and the champion "
            f"{comparison.old_macs / 1e9:.4g} G (margin {cost_margin:.1%})"
        )
    return reasons


def _worse(differences: Sequence[Difference], margin_db: float) -> str:
    worst = min(differences, key=lambda difference: difference.gain)
    return (
        f"{worst.suite}, scale group {worst.group_name}: {worst.gain:+.3f} dB at x{worst.scale} ({worst.old:.3f} -> "
        f"{worst.new:.3f} dB, margin {margin_db:g} dB)"
    )
