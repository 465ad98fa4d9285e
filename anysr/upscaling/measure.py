"""Measuring a device: each subnet on noise of some sizes, enlarged by some scales."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from anysr.cost import cost
from anysr.files import cache_root
from anysr.imaging.picture import Picture
from anysr.upscaling.plan import Precision, Request
from anysr.upscaling.profile import DeviceProfile, Measurement
from anysr.upscaling.targets import Enlargement
from anysr.upscaling.upscaler import Upscaler

SIZES_PX = (32, 64, 128, 256)
SCALES = (1.5, 2.0, 3.0, 4.0)
_RUNS = 5
_MIN_POINTS = 4


@dataclass(frozen=True)
class Sweep:
    """What is measured.

    Attributes:
        sizes_px: sides of square LR images.
        scales: factors.
        max_run_s: points that would take longer a run, judged by the ones before, are left out.
    """

    sizes_px: Sequence[int] = SIZES_PX
    scales: Sequence[float] = SCALES
    max_run_s: float = 1.0


def measure(
    upscaler: Upscaler,
    model_digest: str,
    precisions: Sequence[Precision],
    sweep: Sweep,
    tell: Callable[[Measurement], None] = lambda m: None,
) -> DeviceProfile:
    """Time every subnet in every precision, small images first.

    Args:
        upscaler: the network on its device.
        model_digest: of its file.
        precisions: to measure.
        sweep: sizes and scales; a network of one factor is measured at that.
        tell: called with each measurement as it is made.
    """
    if factor := upscaler.model.config.fixed_factor:
        sweep = replace(sweep, scales=(float(factor),))
    found = []
    for precision in precisions:
        for subnet in range(len(upscaler.model.subnets)):
            for measurement in _measure_subnet(upscaler, subnet, precision, sweep):
                tell(measurement)
                found.append(measurement)
    return DeviceProfile(model_digest, device_name(upscaler.device), tuple(found))


def cached_profile(model_digest: str, device: torch.device) -> Path:
    """Where the profile of a model on this device is kept."""
    name = "".join(c if c.isalnum() else "-" for c in device_name(device).lower())
    return cache_root() / "profiles" / f"{model_digest[:16]}-{name[:80]}.json"


def device_name(device: torch.device) -> str:
    """What times depend on beside the model: processor, threads, torch."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        processor = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()
        name = f"{processor} x{torch.get_num_threads()}"
    else:
        name = f"{platform.machine()} {device.type}"
    return f"{name}, torch {torch.__version__}"


def _measure_subnet(upscaler: Upscaler, subnet: int, precision: Precision, sweep: Sweep) -> Iterator[Measurement]:
    points = sorted((px * px * s * s, px, s) for px in sweep.sizes_px for s in sweep.scales)
    rate = 0.0
    for number, (_, side_px, scale) in enumerate(points):
        macs = cost(upscaler.model, (side_px, side_px), scale, subnet).executed_macs
        if number >= _MIN_POINTS and macs * rate > sweep.max_run_s:
            continue
        seconds = _time(upscaler, side_px, Request(Enlargement((scale, scale)), subnet=subnet, precision=precision))
        rate = float(np.median(seconds)) / macs
        size = (round(side_px * scale),) * 2
        yield Measurement(subnet, precision, (side_px, side_px), size, seconds)


def _time(upscaler: Upscaler, side_px: int, request: Request) -> tuple[float, ...]:
    pixels = np.random.default_rng(0).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    picture = Picture(pixels)
    upscaler.enlarge(picture, request)  # first calls choose kernels
    return tuple(upscaler.enlarge(picture, request).seconds for _ in range(_RUNS))
