"""What an enlargement may cost."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Upper bounds for one image; None is no bound.

    Attributes:
        macs: multiply-adds of the whole network as published, all passes together.
        seconds: from pixels to pixels on this device, without reading and writing files.
        memory: resident bytes of the process at its peak.
    """

    macs: float | None = None
    seconds: float | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        for name in ("macs", "seconds", "memory"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"a limit of {name} must be positive and finite, got {value}")


class BudgetError(ValueError):
    """No subnet fits the limits; says what the nearest possible ones are."""
