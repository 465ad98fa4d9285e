"""What one visitor may ask for, and how many may ask at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class ServiceLimits:
    """Upper bounds; what exceeds them is refused.

    Attributes:
        megabytes: of an uploaded file, in 10^6 bytes.
        megapixels_in: of the image.
        megapixels_out: of its enlargement.
        seconds: from a request's arrival to its answer, waiting included.
        waiting: requests beside those in work; more get 503.
    """

    megabytes: float = 32.0
    megapixels_in: float = 16.0
    megapixels_out: float = 64.0
    seconds: float = 60.0
    waiting: int = 8

    def __post_init__(self) -> None:
        for field in fields(self):
            value, may_be_zero = getattr(self, field.name), field.name == "waiting"
            if not ((0 if may_be_zero else 1e-6) <= value < math.inf):
                allowed = "0 or more" if may_be_zero else "positive and finite"
                raise ValueError(f"--{field.name.replace('_', '-')} must be {allowed}, got {value:g}")

    @property
    def max_bytes(self) -> int:
        """Of an uploaded file."""
        return int(self.megabytes * 1e6)


class Gate:
    """Counts who is inside; used from one event loop, so that it needs no lock."""

    def __init__(self, places: int) -> None:
        self.places, self.inside = places, 0

    @contextmanager
    def place(self) -> Iterator[bool]:
        """Hold a place while the block runs; False where all are taken."""
        free = self.inside < self.places
        self.inside += free
        try:
            yield free
        finally:
            self.inside -= free
