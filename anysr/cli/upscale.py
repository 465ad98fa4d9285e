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
  anysr upscale photo.png --size 3840x2160 --budget 500G -o 4k.png
      at most 500 G multiply-adds: a smaller subnet if need be
  anysr upscale photo.png --scale 3 --latency 800ms -o fast.png
      this device is measured once, see anysr profile
  anysr upscale huge.tif --scale 2 --memory 4G -o huger.tif
      smaller tiles, the same answer
  anysr upscale scan.tif --scale 4 --self-ensemble -o best.tif
      eight times the work for a little quality

Grey, alpha, 16 bits, CMYK, colour profile, EXIF and DPI are kept where the format of the output holds them; a note
says what was lost. What was chosen and what it cost is printed for each image.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from anysr.amounts import parse_bytes, parse_macs, parse_seconds, show_macs, show_seconds
from anysr.cli import one_line, shown
from anysr.cli.inputs import Job, collect_jobs
from anysr.cli.models import MODEL_HELP, open_device, open_model, parse_subnet
from anysr.cli.progress import Progress
from anysr.cli.timing import profile_for
from anysr.files import write_whole
from anysr.imaging import FORMATS, MAX_MEGAPIXELS, complete_size, format_of, upright_size
from anysr.upscaling import Enlargement, FileOptions, Limits, Request, Result, Upscaler, enlarge_file
from anysr.upscaling.plan import PRECISIONS, Tile
from anysr.upscaling.targets import parse_scale, parse_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("inputs", nargs="+", metavar="IN", help="image files, folders, or quoted globs")
    add("-o", "--out", required=True, type=Path, metavar="OUT", help="image file for one image, else a folder")
    large = parser.add_argument_group("how large").add_mutually_exclusive_group(required=True)
    large.add_argument("--scale", metavar="S", help="factor, or height x width factors")
    large.add_argument("--size", metavar="WxH", help="exact size in pixels")
    large.add_argument("--width", type=_pixels, metavar="PX")
    large.add_argument("--height", type=_pixels, metavar="PX")
    large.add_argument("--long-edge", type=_pixels, metavar="PX", help="length of the longer side")
    budget = parser.add_argument_group("budget for each image; the best subnet that fits is chosen")
    budget.add_argument("--budget", metavar="N", help="multiply-adds of the published form: 50G, 1.5T")
    budget.add_argument("--latency", metavar="T", help="time on this device, pixels to pixels: 200ms, 3s")
    budget.add_argument("--memory", metavar="M", help="resident memory of this process: 2G")
    budget.add_argument("--device-profile", type=Path, metavar="FILE", help="of anysr profile -o; default: the cache")
    network = parser.add_argument_group("network")
    network.add_argument("--model", metavar="MODEL", help=MODEL_HELP)
    network.add_argument("--subnet", default="auto", help="auto, full, or an index; anysr info lists them")
    network.add_argument("--precision", default="fp32", choices=PRECISIONS, help="falls back to fp32 on NaN")
    network.add_argument("--self-ensemble", action="store_true", help="average over 8 symmetries")
    network.add_argument("--tile", default="auto", metavar="PX", help="side of the encoder's windows; auto, off, or px")
    network.add_argument("--device", default=None, help="cpu, cuda, cuda:1, mps; default: cuda where there is one")
    files = parser.add_argument_group("files")
    files.add_argument("--format", choices=sorted(name.lower() for name in FORMATS), help="default: as the input")
    files.add_argument("--quality", type=int, default=95, metavar="Q", help="1 … 100 of JPEG and WebP (100: lossless)")
    files.add_argument("--overwrite", action="store_true", help="also what is complete in the output folder")
    files.add_argument("--max-megapixels", type=float, default=MAX_MEGAPIXELS, metavar="MP", help="of input and output")
    files.add_argument("--json", action="store_true", help="a line of JSON per image on stdout")


def run(args: argparse.Namespace) -> int:
    """Check everything that can be checked beforehand, enlarge one image after the other, report."""
    suffix = FORMATS[args.format.upper()].suffixes[0] if args.format else None
    request, options = _request(args), FileOptions(args.quality, args.max_megapixels)
    jobs = collect_jobs(args.inputs, args.out, suffix, overwrite=args.overwrite)
    opened = open_model(args.model)
    opened.model.subnet_for(request.subnet, 1.0)
    device = open_device(args.device)
    profile = None
    if args.latency or args.device_profile:
        profile = profile_for(opened, device, request.precision, args.device_profile)
    batch = Batch(Upscaler(opened.model, device, profile), request, options, args.json)
    print(f"model {shown(opened.name)}, {device}, {request.precision}", file=sys.stderr)
    return batch.run(jobs)


class Batch:
    """Many images with one request: each failure is kept for the end, the others are done."""

    def __init__(self, upscaler: Upscaler, request: Request, options: FileOptions, as_json: bool) -> None:
        self.upscaler, self.request, self.options, self.as_json = upscaler, request, options, as_json
        self.failures: list[tuple[Path, str]] = []

    def run(self, jobs: list[Job]) -> int:
        """Enlarge all; 0 when none failed."""
        waiting = [job for job in jobs if not self._is_done(job)]
        if len(waiting) < len(jobs):
            print(f"{len(jobs) - len(waiting)} of {len(jobs)} are there already (--overwrite)", file=sys.stderr)
        progress = Progress(len(waiting))
        for job in waiting:
            try:
                result = self._enlarge(job, progress)
            except Exception as error:  # one image's fault must not cost the others; decoders raise anything
                self.failures.append((job.source, _reason(error)))
                print(f"{progress.finish_one()}{shown(job.source)}: {_reason(error)}", file=sys.stderr, flush=True)
            else:
                self._show(job, result, progress.finish_one())
        return self._report(len(waiting))

    def _is_done(self, job: Job) -> bool:
        """Whether a complete result of the right size, newer than its source, is there."""
        try:
            if not job.may_skip or job.target.stat().st_mtime < job.source.stat().st_mtime:
                return False
            size = upright_size(job.source)
            wanted = None if size is None else self.request.enlargement.resolve(size).size
        except (OSError, ValueError):
            return False
        return wanted is not None and complete_size(job.target) == wanted

    def _enlarge(self, job: Job, progress: Progress) -> Result:
        data, spec = job.source.read_bytes(), format_of(job.target)
        encoded, result = enlarge_file(self.upscaler, data, self.request, spec, self.options, progress.tell)
        job.prepare_folder()
        write_whole(job.target, encoded)
        for note in result.picture.notes:
            print(f"note: {shown(job.source)}: {note}", file=sys.stderr)
        return result

    def _show(self, job: Job, result: Result, prefix: str) -> None:
        if self.as_json:
            print(json.dumps(_as_dict(job, result)), flush=True)
        else:
            print(f"{prefix}{shown(job.source)} -> {shown(job.target)}: {_describe(result)}", flush=True)

    def _report(self, count: int) -> int:
        if not self.failures:
            return 0
        if count > 1:
            print(f"{len(self.failures)} of {count} failed:", file=sys.stderr)
            for path, reason in self.failures:
                print(f"  {shown(path)}: {reason}", file=sys.stderr)
        return 1


def _describe(result: Result) -> str:
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


def _request(args: argparse.Namespace) -> Request:
    enlargement = Enlargement(
        parse_scale(args.scale) if args.scale else None,
        parse_size(args.size) if args.size else None,
        args.width,
        args.height,
        args.long_edge,
    )
    limits = Limits(
        parse_macs(args.budget) if args.budget else None,
        parse_seconds(args.latency) if args.latency else None,
        parse_bytes(args.memory) if args.memory else None,
    )
    return Request(enlargement, limits, parse_subnet(args.subnet), args.precision, args.self_ensemble, _tile(args.tile))


def _tile(text: str) -> Tile:
    if text == "auto" or text == "off":
        return None if text == "off" else "auto"
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--tile must be auto, off, or pixels a side, got {text!r}")
    return int(text)


def _pixels(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of pixels, got {text!r}")
    return int(text)


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError | OSError | MemoryError):
        return one_line(error)
    return f"unexpected {type(error).__name__}: {one_line(error)[:300]}"
