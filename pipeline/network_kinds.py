"""Which encoder and decoder a configuration means, so that its errors speak of those alone.

The sections of the several kinds are a union, of which pydantic tries, and reports, every member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anysr.decoders import DECODERS
from anysr.encoders import ENCODERS
from pipeline.errors import UserError

_NETWORKS = {"encoder": ENCODERS, "decoder": DECODERS}


def with_kinds(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the encoder's and the decoder's ``kind`` written out, so that no other kind's keys fit."""
    model = values.get("model")
    if not isinstance(model, Mapping):
        return dict(values)
    parts = {
        part: {"kind": next(iter(table)), **model[part]}
        for part, table in _NETWORKS.items()
        if isinstance(model.get(part), Mapping)
    }
    return {**values, "model": {**model, **parts}}


def network_classes(values: Mapping[str, Any]) -> dict[str, str]:
    """Name of the configuration class of the encoder's and the decoder's ``kind``."""
    model, names = with_kinds(values).get("model"), {}
    for part, table in _NETWORKS.items():
        section = model.get(part) if isinstance(model, Mapping) else None
        kind = section["kind"] if isinstance(section, Mapping) else next(iter(table))
        if not isinstance(kind, str) or kind not in table:
            raise UserError(f"model.{part}.kind must be one of {', '.join(table)}, got {kind!r}")
        names[part] = table[kind][0].__name__
    return names


def is_of(classes: Mapping[str, str], location: Sequence[str | int]) -> bool:
    """Whether a fault is about the kind that was asked for; pydantic tries, and reports, them all."""
    return len(location) < 3 or location[0] != "model" or classes.get(str(location[1]), location[2]) == location[2]


def without_class(fault: Any) -> Any:
    """The fault with the configuration class left out of its location."""
    location = fault["loc"]
    is_network = location[:1] == ("model",) and len(location) > 2 and location[1] in _NETWORKS
    return {**fault, "loc": (*location[:2], *location[3:])} if is_network else fault
