"""How a search goes about it: the ``search:`` section of a space file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from anysr.config import check_keys
from pipeline.config import Count, Section
from pipeline.config_errors import refuse_booleans
from pipeline.errors import UserError


class HalvingSettings(Section):
    """Early stopping of trials by asynchronous successive halving (ASHA, 1810.05934)."""

    first: float = Field(0.25, gt=0, le=1)
    """Share of its compute that every trial may spend before it can be stopped."""
    factor: float = Field(2, gt=1)
    """Of the trials that reach a rung, one in so many goes on; the next rung is so many times further."""


class SearchSettings(Section):
    """Number of trials, how they are proposed, and how they are judged."""

    trials: Count = 32
    """For grid and one_at_a_time, the most that are run."""
    sampler: Literal["tpe", "nsga2", "random", "grid", "one_at_a_time"] = "tpe"
    """tpe and nsga2 look for the front of both objectives; grid takes every combination; one_at_a_time changes one
    choice of the base configuration per trial, as ablation tables do."""
    seed: int = Field(0, ge=0, lt=2**31)
    reports: Count = 4
    """How often a trial is scored, evenly over its steps; each score is a chance to stop it."""
    halving: HalvingSettings | None = HalvingSettings()
    """null lets every trial finish."""
    db_per_doubling: float = Field(0.2, ge=0)
    """PSNR in dB that twice the multiply-adds must gain to be worth it: by it trials are stopped, and the best one is
    picked from the front."""
    concurrent: Count | None = None
    """Trials at a time; null is as many as the cluster has room for."""


def _schema() -> dict[str, Any]:
    own = SearchSettings.model_json_schema()
    return {"properties": {"search": own}, "$defs": own["$defs"]}


def parse_settings(values: Mapping[str, Any] | None) -> SearchSettings:
    """Validate the section.

    Raises:
        ValueError: an unknown key (the nearest is named).
        UserError: a bad value.
    """
    if values is not None and not isinstance(values, Mapping):
        raise UserError(f"search must hold keys such as trials and sampler, got {values!r}")
    given = dict(values or {})
    check_keys(given, SearchSettings.model_fields, "search")
    if isinstance(given.get("halving"), Mapping):
        check_keys(given["halving"], HalvingSettings.model_fields, "search.halving")
    refuse_booleans({"search": given}, _schema)
    try:
        return SearchSettings.model_validate(given)
    except ValidationError as error:
        faults = [(".".join(map(str, fault["loc"])), fault["msg"], fault["input"]) for fault in error.errors()]
        raise UserError("; ".join(f"search.{key}: {words}, got {value!r}" for key, words, value in faults)) from None
