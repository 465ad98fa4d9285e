"""Amounts as people write and read them: multiply-adds, times, memory."""

from __future__ import annotations

import math
import re

_AMOUNT = re.compile(r"([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([a-zµ]*)", re.IGNORECASE)
_MAX_DIGITS = 9  # Python itself refuses to read thousands, by an error of its own
_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "min": 60.0, "h": 3600.0}


def parse_macs(text: str) -> float:
    """``50G`` multiply-adds; k, M, G, T are powers of 1,000.

    Raises:
        ValueError: another form, nothing, or more than a float holds.
    """
    return _parse(text, _COUNTS, "multiply-adds are written as 50G or 1.5T")


def parse_seconds(text: str) -> float:
    """``200ms``, ``1.5s``, ``2min``.

    Raises:
        ValueError: another form, nothing, or more than a float holds.
    """
    return _parse(text, _SECONDS, "a time is written as 200ms, 1.5s or 2min")


def parse_bytes(text: str) -> int:
    """``2G`` or ``512MiB``; k, M, G, T are powers of 1,024.

    Raises:
        ValueError: another form, less than a byte, or more than a float holds.
    """
    plain = re.sub(r"i?b$", "", text.strip(), flags=re.IGNORECASE)
    return int(_parse(plain, _BYTES, "memory is written as 2G or 512M, at least 1 byte", least=1))


def parse_whole(text: str) -> int | None:
    """A whole number of at most nine digits; None for any other text."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS else None


def show_macs(value: float) -> str:
    """As people read it: 50.13 G."""
    for suffix, unit in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= unit:
            return f"{value / unit:.4g} {suffix}"
    return f"{value:.0f}"


def show_seconds(value: float) -> str:
    """As people read it: 187 ms, 1.84 s, 3 min 20 s."""
    if value < 0.9995:
        return f"{value * 1e3:.3g} ms"
    if value < 99.5:
        return f"{value:.3g} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def show_bytes(value: float) -> str:
    """As people read it: 1.5 GiB, 300 MiB."""
    return f"{value / 2**30:.3g} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def rounded_up(value: float, digits: int = 3) -> float:
    """The next number of so many significant digits, so that what is suggested is enough."""
    step = 10.0 ** (math.floor(math.log10(value)) + 1 - digits)
    return math.ceil(value / step) * step


def _parse(text: str, units: dict[str, float] | dict[str, int], form: str, least: float = 0.0) -> float:
    match = _AMOUNT.fullmatch(text.strip())
    unit = None if match is None else units.get(match[2].lower())
    amount = 0.0 if match is None or unit is None else float(match[1]) * unit
    if not least <= amount < math.inf or amount == 0:
        raise ValueError(f"{form}, got {text!r}")
    return amount
