"""Enlarge photos by any factor, or to any size, within a budget.

how large, in one way:
  --scale 2.37           both sides times 2.37
  --scale 2x3.1          height times 2, width times 3.1
  --size 1920x1080       exactly this width x height
  --width 1920           or --height, or --long-edge 4096: the other side in proportion

Examples:
  anysr upscale photo.jpg --scale 2.37 -o large.jpg
  anysr upscale photos/ 'more/*.png' --long-edge 4096 -o large/
      folders keep their structure; started again, it goes on where it stopped
  anysr upscale photo.png --size 3840x2160 --budget 3T -o 4k.png
      at most 3 T multiply-adds: a smaller subnet if need be
  anysr upscale photo.png --scale 3 --latency 800ms -o fast.png
      this device is measured once, see anysr profile
  anysr upscale huge.tif --scale 2 --memory 4G -o huger.tif
      smaller tiles, the same answer
  anysr upscale scan.tif --scale 4 --self-ensemble -o best.tif
      eight times the work for a little quality

Grey, alpha, 16 bits, CMYK, colour profile, EXIF, XMP and DPI are kept where the format of the output holds them; a note
says what was lost. What was chosen and what it cost is printed for each image.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from anysr.amounts import show_macs, show_seconds
from anysr.cli import one_line, shown
from anysr.cli.inputs import Job, collect_jobs
from anysr.cli.models import OpenedModel, open_device, open_model
from anysr.cli.progress import Progress
from anysr.cli.request import add_request_arguments, options_of, request_of, suffix_of
from anysr.cli.results import ResultFolder, mark_of, stamp_of
from anysr.cli.timing import profile_for
from anysr.imaging import format_of
from anysr.upscaling import FileOptions, Request, Result, Upscaler, enlarge_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("inputs", nargs="+", metavar="IN", help="image files, folders, or quoted globs")
    add(
        "-o",
        "--out",
        required=True,
        metavar="OUT",
        help="image file for one image; else, or with a / at its end, a folder",
    )
    add("--json", action="store_true", help="a line of JSON per image on stdout")
    add_request_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check everything that can be checked beforehand, enlarge one image after the other, report."""
    request, options = request_of(args), options_of(args)
    jobs, unread = collect_jobs(args.inputs, args.out, suffix_of(args))
    if args.quality is not None and (plain := {format_of(job.target).name for job in jobs} - {"JPEG", "WEBP"}):
        print(f"note: --quality is not for {' and '.join(sorted(plain))}, always lossless", file=sys.stderr)
    opened = open_model(args.model)
    opened.model.subnet_for(request.subnet, 1.0)
    device = open_device(args.device)
    profile = None
    if args.latency or args.device_profile:
        profile = profile_for(opened, device, request.precision, args.device_profile)
    batch = Batch(opened, Upscaler(opened.model, device, profile), request, options, args.json)
    print(f"model {shown(opened.name)}, {device}, {request.precision}", file=sys.stderr)
    return batch.run(jobs, args.overwrite, unread)


class Batch:
    """Many images with one request: each failure is kept for the end, the others are done."""

    def __init__(
        self, opened: OpenedModel, upscaler: Upscaler, request: Request, options: FileOptions, as_json: bool
    ) -> None:
        self.opened, self.upscaler, self.request, self.options = opened, upscaler, request, options
        self.as_json = as_json
        self.failures: list[tuple[Path, str]] = []

    def run(self, jobs: list[Job], overwrite: bool, unread: Sequence[tuple[Path, str]] = ()) -> int:
        """Enlarge all; 0 when none failed and nothing was ``unread``, with the reasons."""
        for path, why in unread:
            self.failures.append((path, why))
            print(f"{shown(path)}: {why}", file=sys.stderr, flush=True)
        waiting = jobs if overwrite else [job for job in jobs if not self._is_done(job)]
        if len(waiting) < len(jobs):
            print(f"{len(jobs) - len(waiting)} of {len(jobs)} are there already (--overwrite)", file=sys.stderr)
        progress = Progress(len(waiting))
        for job in waiting:
            try:
                result = self._enlarge(job, progress, overwrite)
            except Exception as error:  # one image's fault must not cost the others; decoders raise anything
                self.failures.append((job.source, reason(error)))
                print(f"{progress.finish_one()}{shown(job.source)}: {reason(error)}", file=sys.stderr, flush=True)
            else:
                self._show(job, result, progress.finish_one())
        return self._report(len(waiting) + len(unread))

    def _is_done(self, job: Job) -> bool:
        try:
            return job.is_kept and ResultFolder(job.root).has(job.target, self._mark(job))
        except OSError:
            return False

    def _mark(self, job: Job) -> str:
        return mark_of(self.opened.digest, self.request, format_of(job.target), self.options, stamp_of(job.source))

    def _enlarge(self, job: Job, progress: Progress, overwrite: bool) -> Result:
        mark = self._mark(job) if job.is_kept else None
        if mark is not None and not overwrite:
            ResultFolder(job.root).check_replaces_nothing(job.target)
        data, spec = job.source.read_bytes(), format_of(job.target)
        encoded, result = enlarge_file(self.upscaler, data, self.request, spec, self.options, progress.tell)
        ResultFolder(job.root).write(job.target, encoded, mark)
        for note in result.picture.notes:
            print(f"note: {shown(job.source)}: {note}", file=sys.stderr)
        return result

    def _show(self, job: Job, result: Result, prefix: str) -> None:
        if self.as_json:
            print(json.dumps(_as_dict(job, result)), flush=True)
        else:
            print(f"{prefix}{shown(job.source)} -> {shown(job.target)}: {describe(result)}", flush=True)

    def _report(self, count: int) -> int:
        if not self.failures:
            return 0
        if count > 1:
            print(f"{len(self.failures)} of {count} failed:", file=sys.stderr)
            for path, reason in self.failures:
                print(f"  {shown(path)}: {reason}", file=sys.stderr)
        return 1


def describe(result: Result) -> str:
    """What was chosen for an image and what it cost, in a line."""
    plan = result.plan
    (h, w), (height, width) = plan.lr_size, plan.target.size
    scale_h, scale_w = plan.target.scale
    factor = f"{scale_h:.4g}" if abs(scale_h - scale_w) < 5e-4 * scale_w else f"{scale_h:.4g}x{scale_w:.4g}"
    chosen = f"subnet {plan.subnet.index}"
    if plan.subnet != plan.own:
        chosen += f" (the scale's own is {plan.own.index})"
    passes = f" in {plan.passes} passes" if plan.passes > 1 else ""
    tiles = f", tiles of {result.request.tile}" if isinstance(result.request.tile, int) else ""
    predicted = f" (predicted {show_seconds(plan.seconds)})" if plan.seconds is not None else ""
    return (
        f"{w} x {h} to {width} x {height} (x{factor}), {chosen}, {show_macs(plan.macs)} multiply-adds{passes}, "
        f"{show_macs(plan.executed_macs)} executed, {show_seconds(result.seconds)}{predicted}{tiles}"
    )


def _as_dict(job: Job, result: Result) -> dict[str, object]:
    plan, request = result.plan, result.request
    return {
        "source": str(job.source),
        "target": str(job.target),
        "lr_size": plan.lr_size,
        "size": plan.target.size,
        "scale": plan.target.scale,
        "subnet": plan.subnet.index,
        "own_subnet": plan.own.index,
        "passes": plan.passes,
        "macs": plan.macs,
        "executed_macs": plan.executed_macs,
        "seconds": result.seconds,
        "predicted_seconds": plan.seconds,
        "precision": request.precision,
        "tile": request.tile,
        "notes": result.picture.notes,
    }


def reason(error: Exception) -> str:
    """Why an image failed, in a line."""
    if isinstance(error, ValueError | OSError | MemoryError):
        return one_line(error)
    return f"unexpected {type(error).__name__}: {one_line(error)[:300]}"
