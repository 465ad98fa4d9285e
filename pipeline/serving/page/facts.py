"""What the page says about the network."""

from __future__ import annotations

from dataclasses import dataclass

from anysr.cost import cost
from anysr.model import AnySR

_SIZE, _SCALES = (64, 64), (1.0, 1.5, 2.0, 3.0, 4.0, 8.0)


@dataclass(frozen=True)
class PageFacts:
    """For people.

    Attributes:
        model: its name.
        num_subnets: how many networks it holds.
        least_share: of the full network's multiply-adds, in percent, that its narrowest subnet takes.
    """

    model: str
    num_subnets: int
    least_share: int


def facts_of(model: AnySR, name: str) -> PageFacts:
    """The facts of a network; the least share is that of the scale at which it is least."""
    shares = [cost(model, _SIZE, s, 0).macs / cost(model, _SIZE, s, "full").macs for s in _SCALES]
    return PageFacts(name, len(model.subnets), min(99, int(100 * min(shares))))
