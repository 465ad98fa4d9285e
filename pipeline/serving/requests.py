"""What goes to an enlarger and comes back: plain values, because exceptions cross processes badly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from anysr.amounts import parse_macs, parse_whole
from anysr.cli.models import parse_subnet
from anysr.imaging import FORMATS, Format
from anysr.model import SubnetChoice
from anysr.upscaling import Enlargement
from anysr.upscaling.targets import parse_scale, parse_size

_BUSY, _RETRY_AFTER_S = 503, 5
_PARAMETERS = ("scale", "size", "width", "height", "long-edge", "budget", "subnet", "format", "quality")


@dataclass(frozen=True)
class Job:
    """One image to enlarge.

    Attributes:
        enlargement: how large.
        data: its file.
        format: name of the result's format.
        quality: as of :class:`anysr.upscaling.FileOptions`.
        budget: multiply-adds, at most; or, with ``budget_is_share``, that share of the full network's.
        budget_is_share: see ``budget``.
        subnet: "auto", "full" or an index.
        wants_original: send the upright original along, as PNG.
        or_narrowest: where no subnet takes so small a share, take the narrowest and say so, instead of refusing.
    """

    enlargement: Enlargement
    data: bytes = b""
    format: str = "PNG"
    quality: int | None = None
    budget: float | None = None
    budget_is_share: bool = False
    subnet: SubnetChoice = "auto"
    wants_original: bool = False
    or_narrowest: bool = False

    @property
    def spec(self) -> Format:
        """The result's format."""
        return FORMATS[self.format]


@dataclass(frozen=True)
class Answer:
    """An enlargement and what it cost.

    Attributes:
        data: the file, byte for byte what ``anysr upscale`` writes.
        original: the upright original as PNG, where it was asked for.
        lr_size: (h, w).
        size: (H, W).
        scale: (s_h, s_w).
        subnet: index of the one that ran.
        own_subnet: the one that the scale would choose.
        macs: multiply-adds, as published.
        full_macs: what the full network would have taken.
        executed_macs: in the exact faster form.
        seconds: from pixels to pixels.
        notes: what was lost, for people.
    """

    data: bytes
    original: bytes | None
    lr_size: tuple[int, int]
    size: tuple[int, int]
    scale: tuple[float, float]
    subnet: int
    own_subnet: int
    macs: int
    full_macs: int
    executed_macs: int
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Refusal:
    """Why there is no answer.

    Attributes:
        status: of HTTP.
        reason: one line for people: what is wrong, what is allowed.
        retry_after_s: when it makes sense to ask again.
    """

    status: int
    reason: str
    retry_after_s: int | None = None

    @classmethod
    def busy(cls, why: str) -> Refusal:
        """There is no place at the moment."""
        return cls(_BUSY, f"{why}; try again", _RETRY_AFTER_S)


def single_values(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A request's parameters by their names; raises ValueError where one is given twice."""
    query = dict[str, str]()
    for name, value in pairs:
        if name in query:
            raise ValueError(f"{name[:40]!r} is given twice; give each parameter once")
        query[name] = value
    return query


def parse_job(query: Mapping[str, str]) -> Job:
    """The job that a request's parameters describe, as for ``anysr upscale``; its file is still to come.

    Raises:
        ValueError: an unknown parameter, or a value out of range.
    """
    for name in query:
        if name not in _PARAMETERS:
            raise ValueError(f"unknown parameter {name!r}; known are {', '.join(_PARAMETERS)}")
    share = query.get("budget", "").endswith("%")
    return Job(
        _enlargement(query),
        format=_format_name(query.get("format", "png")),
        quality=_whole("quality", query["quality"], 1, 100) if "quality" in query else None,
        budget=_budget(query.get("budget"), share),
        budget_is_share=share,
        subnet=parse_subnet(query.get("subnet", "auto")),
    )


def _enlargement(query: Mapping[str, str]) -> Enlargement:
    sides = {name: query.get(name.replace("_", "-")) for name in ("width", "height", "long_edge")}
    return Enlargement(
        parse_scale(query["scale"]) if "scale" in query else None,
        parse_size(query["size"]) if "size" in query else None,
        **{name: None if text is None else _whole(name, text, 1, 10**6) for name, text in sides.items()},
    )


def _budget(text: str | None, is_share: bool) -> float | None:
    if text is None or not is_share:
        return None if text is None else parse_macs(text)
    try:
        percent = float(text[:-1])
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:
        raise ValueError(f"a budget is multiply-adds as in 50G, or a share of the full network as in 40%, got {text!r}")
    return percent / 100


def _format_name(text: str) -> str:
    name = {"JPG": "JPEG", "TIF": "TIFF"}.get(text.upper(), text.upper())
    if name not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(sorted(f.lower() for f in FORMATS))}, got {text!r}")
    return name


def _whole(name: str, text: str, least: int, most: int) -> int:
    value = parse_whole(text)
    if value is None or not least <= value <= most:
        raise ValueError(f"{name.replace('_', '-')} must be a whole number from {least} to {most}, got {text[:40]!r}")
    return value
