"""The profile of this device: given, from the cache, or measured now."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from anysr.cli import shown
from anysr.cli.models import OpenedModel
from anysr.upscaling import Upscaler
from anysr.upscaling.measure import Sweep, cached_profile, device_name, measure
from anysr.upscaling.plan import Precision
from anysr.upscaling.profile import DeviceProfile

# What --latency measures by itself: some twenty seconds for four subnets.
QUICK = Sweep(scales=(1.5, 2.0, 4.0), max_run_s=0.25)


def profile_for(opened: OpenedModel, device: torch.device, precision: Precision, given: Path | None) -> DeviceProfile:
    """The given file, or the cached profile; measured and cached first where there is none.

    Raises:
        ValueError: the given file is of another model, or lacks the precision.
        OSError: the given file cannot be read.
    """
    if given is not None:
        profile = DeviceProfile.load(given)
        if profile.model_digest != opened.digest:
            raise ValueError(f"{shown(given)} is the profile of another model; write one with anysr profile -o")
        if not profile.knows(len(opened.model.subnets), precision):
            raise ValueError(
                f"{shown(given)} has subnets that were not measured in {precision}; see anysr profile --precision"
            )
        return profile
    path = cached_profile(opened.digest, device)
    known = _cached(path, opened.digest)
    if known is not None and known.knows(len(opened.model.subnets), precision):
        return known
    print(f"measuring {device_name(device)} once for this model, see anysr profile …", file=sys.stderr)
    return keep(measure(Upscaler(opened.model, device), opened.digest, (precision,), QUICK), path)


def keep(profile: DeviceProfile, path: Path) -> DeviceProfile:
    """Write to the cache, beside what it has of other precisions."""
    known = _cached(path, profile.model_digest)
    if known is not None:
        others = tuple(m for m in known.measurements if m.precision not in profile.precisions)
        profile = replace(profile, measurements=profile.measurements + others)
    try:
        profile.save(path)
    except OSError as error:
        print(f"note: cannot keep the profile in {shown(path)} ({error.strerror}); set ANYSR_CACHE", file=sys.stderr)
    return profile


def _cached(path: Path, model_digest: str) -> DeviceProfile | None:
    """None as well for what is no profile of this model: it is measured anew."""
    try:
        profile = DeviceProfile.load(path)
    except (OSError, ValueError):
        return None
    return profile if profile.model_digest == model_digest else None
