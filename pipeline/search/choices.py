"""What a search may choose from: a list of values, or a range of numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from anysr.config import check_keys
from pipeline.errors import UserError

KEYWORDS = ("choose", "between", "log", "step", "base")


@dataclass(frozen=True)
class Choice:
    """One of several values, of any kind.

    Attributes:
        values: all of them.
        base: what the base configuration has, as a tuple of one value; empty where that says it itself.
    """

    values: tuple[Any, ...]
    base: tuple[Any, ...] = ()

    def in_words(self) -> str:
        """For people."""
        return f"one of {', '.join(json.dumps(value) for value in self.values)}"

    @property
    def corners(self) -> tuple[Any, ...]:
        """All values: any of them may be the one that does not work."""
        return self.values

    @property
    def grid(self) -> tuple[Any, ...]:
        return self.values

    @property
    def distribution(self) -> BaseDistribution:
        """Over the values as JSON, because Optuna takes plain ones only."""
        return CategoricalDistribution(tuple(json.dumps(value) for value in self.values))

    def decoded(self, suggested: Any) -> Any:
        """The value that a suggestion of Optuna stands for."""
        return json.loads(suggested)

    def encoded(self, value: Any) -> Any:
        """The inverse of :meth:`decoded`."""
        return json.dumps(value)


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; ``base`` as in :class:`Choice`."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False
    base: tuple[Any, ...] = ()

    def in_words(self) -> str:
        """For people."""
        how = ", log" if self.log else "" if self.step is None else f", step {self.step:g}"
        return f"{self.low:g} to {self.high:g}{how}{', whole numbers' if self.whole else ''}"

    @property
    def corners(self) -> tuple[float, ...]:
        """Its two ends."""
        return (self.low, self.high)

    @property
    def grid(self) -> tuple[float, ...] | None:
        """All its numbers; None where they cannot be counted."""
        step = self.step or (1 if self.whole else None)
        if step is None or self.log:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return tuple(round(self.low + i * step, 10) for i in range(count))

    @property
    def distribution(self) -> BaseDistribution:
        """The same as Optuna's."""
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def decoded(self, suggested: Any) -> Any:
        """The value that a suggestion of Optuna stands for, without digits that mean nothing."""
        if self.whole:
            return suggested
        if self.step is not None:
            return round(self.low + round((suggested - self.low) / self.step) * self.step, 10)
        return min(self.high, max(self.low, float(f"{suggested:.4g}")))

    def encoded(self, value: Any) -> Any:
        """The inverse of :meth:`decoded`, to its digits."""
        return value


Variable = Choice | Range


def parse_variable(values: Mapping[str, Any], where: str, whole: bool) -> Variable:
    """Read ``{choose: [...]}`` or ``{between: [low, high], log: true, step: 0.1}``, with ``base: value`` or without.

    Args:
        values: the mapping.
        where: its dotted key.
        whole: whether the value is an integer.

    Raises:
        ValueError: an unknown keyword (the nearest is named).
        UserError: values that make no choice.
    """
    check_keys(values, KEYWORDS, where)
    values = dict(values)
    try:
        json.dumps(values)
    except TypeError as error:
        raise UserError(f"{where}: {error}, in {values}; put what YAML reads as a date in quotes") from None
    base = (values.pop("base"),) if "base" in values else ()
    if "choose" in values:
        options = values["choose"]
        texts = [json.dumps(option) for option in options] if isinstance(options, list) else []
        if len(values) > 1 or not texts or len({*texts}) < len(texts):
            raise UserError(f"{where}: write choose: [one, another, …], each value once, got {values}")
        return Choice(tuple(options), base)
    ends, log, step = values.get("between"), values.get("log", False), _as_number(values.get("step"))
    numbers: list[Any] = [_as_number(end) for end in ends] if isinstance(ends, list) and len(ends) == 2 else [None]
    ordered = all(_is_number(end) for end in numbers) and numbers[0] < numbers[1]
    if not ordered or not isinstance(log, bool) or (log and (step is not None or numbers[0] <= 0)):
        raise UserError(
            f"{where}: write between: [low, high] with low < high, and either log: true (low above 0) or step, got "
            f"{values}"
        )
    if step is not None and not (_is_number(step) and 0 < step <= numbers[1] - numbers[0]):
        raise UserError(f"{where}: step must be above 0 and fit between {numbers}, got {step!r}")
    if whole and any(value != int(value) for value in (*numbers, step or 1)):
        raise UserError(f"{where} is a whole number, got {values}")
    return Range(numbers[0], numbers[1], log, step, whole, base)


def _as_number(value: Any) -> Any:
    """YAML reads 1e-4, without a point, as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
