"""Scale groups from a few numbers, so that a search need not choose every edge and width by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from anysr import ModelConfig
from anysr.config import check_keys
from pipeline.errors import UserError

GROUP_KEYS = ("groups", "scales", "edges", "encoder_width", "decoder_width")
"""What ``model.subnets`` may hold as a mapping."""
WEIGHT_KEYS = ("last_over_first",)
"""What ``sampling.group_weights`` may hold as a mapping."""


def scale_groups(rule: Mapping[str, Any], model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Groups, edges and widths as ``model.subnets`` lists them.

    Args:
        rule: some of :data:`GROUP_KEYS`. ``groups``: how many. ``scales``: [low, high], what they part.
            ``edges``: the bend b of low + (high - low) * (i / groups) ** b, where 1 parts evenly and more makes the
            first groups smaller; or the groups - 1 edges themselves. ``encoder_width``, ``decoder_width``: of the
            first group, from which the widths grow evenly to 1; or those of all groups.
        model: the network's other values.

    Raises:
        UserError: a value that makes no groups.
    """
    check_keys(rule, GROUP_KEYS, "model.subnets")
    count, (low, high) = _count(rule), _scales(rule)
    network = ModelConfig.from_dict({**model, "subnets": [{"scales": [low, high]}]})
    full = (network.encoder.slim_channels, network.decoder.slim_channels)
    edges = [low, *_edges(rule.get("edges", 1.0), count, low, high), high]
    widths = [
        _widths(rule.get(key, 1.0), count, channels, multiple, f"model.subnets.{key}")
        for key, channels, multiple in zip(GROUP_KEYS[3:], full, network.width_multiples, strict=True)
    ]
    return [
        {"scales": [start, end], "encoder_width": encoder, "decoder_width": decoder}
        for start, end, encoder, decoder in zip(edges[:-1], edges[1:], *widths, strict=True)
    ]


def group_weights(rule: Mapping[str, Any], count: int) -> list[float]:
    """Sampling weights that change by the same factor from group to group, whatever their number."""
    check_keys(rule, WEIGHT_KEYS, "sampling.group_weights")
    ratio = rule.get("last_over_first", 1.0)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or ratio <= 0:
        raise UserError(f"sampling.group_weights.last_over_first must be a positive number, got {ratio!r}")
    return [round(ratio ** (i / max(1, count - 1)), 4) for i in range(count)]


def growing_widths(narrowest: float, count: int, channels: int, multiple: int) -> list[float]:
    """Width fractions from about ``narrowest`` to 1 in even steps of whole multiples of channels.

    They grow from group to group wherever there are enough multiples for that.
    """
    levels = math.ceil(channels / multiple)
    first = min(levels, max(1, math.floor(narrowest * channels / multiple + 0.5)))
    steps = [math.floor(first + (levels - first) * i / max(1, count - 1) + 0.5) for i in range(count - 1)]
    # Rounded up, because a width of multiple 1 rounds channels down.
    return [min(1.0, math.ceil(step * multiple / channels * 1e4) / 1e4) for step in steps] + [1.0]


def _count(rule: Mapping[str, Any]) -> int:
    count = rule.get("groups")
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 32:
        raise UserError(f"model.subnets.groups must be a number of groups from 1 to 32, got {count!r}")
    return count


def _scales(rule: Mapping[str, Any]) -> tuple[float, float]:
    scales = rule.get("scales", [1.0, 4.0])
    if not _are_numbers(scales) or len(scales) != 2:
        raise UserError(f"model.subnets.scales must be [lowest, highest], got {scales!r}")
    return scales[0], scales[1]


def _edges(value: Any, count: int, low: float, high: float) -> list[float]:
    if _are_numbers(value):
        if len(value) != count - 1:
            raise UserError(f"model.subnets.edges lists {len(value)} edges; {count} groups need {count - 1}")
        return list(value)
    if not _are_numbers([value]) or value <= 0:
        raise UserError(f"model.subnets.edges must be a bend above 0, or a list of edges, got {value!r}")
    return [round(low + (high - low) * (i / count) ** value, 2) for i in range(1, count)]


def _widths(value: Any, count: int, channels: int, multiple: int, where: str) -> list[float]:
    if _are_numbers(value):
        if len(value) != count:
            raise UserError(f"{where} lists {len(value)} widths for {count} groups")
        return list(value)
    if not _are_numbers([value]) or not 0 < value <= 1:
        raise UserError(f"{where} must be the first group's width in (0, 1], or a list of all widths, got {value!r}")
    return growing_widths(value, count, channels, multiple)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
