"""Measure this device once per model, so that --latency can choose a subnet.

Each subnet enlarges images of some sizes by some scales, in each precision. Times in between are told from these by
a + b x LR pixels + c x HR pixels, fitted for each subnet, with a margin that 19 of 20 measured runs stay within.
The result is kept in $ANYSR_CACHE, else $XDG_CACHE_HOME/anysr or ~/.cache/anysr, by model, device, threads and torch's
version. Measure on an idle machine: scatter makes the margin wide.

Examples:
  anysr profile
  anysr profile --model runs/mine/model.safetensors --precision fp32 bf16
  anysr profile --device cuda --sizes 64 256 512 -o a100.json      and there: anysr upscale --device-profile a100.json
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np

from anysr.amounts import parse_seconds, show_seconds
from anysr.cli import shown
from anysr.cli.models import MODEL_HELP, check_keeps_model, open_device, open_model
from anysr.cli.timing import keep
from anysr.upscaling import Upscaler
from anysr.upscaling.measure import SCALES, SIZES_PX, Sweep, cached_profile, measure
from anysr.upscaling.plan import PRECISIONS
from anysr.upscaling.profile import Measurement


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("--model", metavar="MODEL", help=MODEL_HELP)
    add("--device", default=None, help="cpu, cuda, cuda:1, mps; default: cuda where there is one")
    add("--precision", nargs="+", default=["fp32"], choices=PRECISIONS)
    add("--sizes", nargs="+", type=int, default=list(SIZES_PX), metavar="PX", help="sides of the LR images")
    add("--scales", nargs="+", type=float, default=list(SCALES), metavar="S", help="a network of one factor has that")
    add("--max-run", default="1s", metavar="T", help="leave out what takes longer a run; default 1s")
    add("-o", "--out", type=Path, metavar="FILE", help="write here instead of the cache")


def run(args: argparse.Namespace) -> int:
    """Measure, keep, show."""
    are_good = min(args.sizes) >= 8 and all(1 <= scale < math.inf for scale in args.scales)
    if not are_good or len(set(args.sizes)) < 2 or len(set(args.scales)) < 2:
        raise ValueError("a profile needs at least two sizes of at least 8 pixels and two scales of at least 1")
    if args.out is not None and args.out.is_dir():
        raise ValueError(f"-o {shown(args.out)} is a folder; name a file")
    opened = open_model(args.model)
    if args.out is not None:
        check_keeps_model(opened.path, args.out)
    device = open_device(args.device)
    sweep = Sweep(tuple(args.sizes), tuple(args.scales), parse_seconds(args.max_run))
    profile = measure(Upscaler(opened.model, device), opened.digest, args.precision, sweep, _tell)
    path = args.out or cached_profile(opened.digest, device)
    if args.out is None:
        keep(profile, path)
    else:
        profile.save(path)
    print(f"{shown(opened.name)} on {profile.device}: {shown(path)}")
    return 0


def _tell(m: Measurement) -> None:
    median, slowest = show_seconds(float(np.median(m.seconds))), show_seconds(max(m.seconds))
    print(
        f"subnet {m.subnet} {m.precision} {m.lr_size[1]} x {m.lr_size[0]} to {m.size[1]} x {m.size[0]}: "
        f"{median} (slowest {slowest})",
        file=sys.stderr,
        flush=True,
    )
