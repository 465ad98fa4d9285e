"""How large, within which limits, written how: the arguments that ``anysr upscale`` and batches share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from anysr.amounts import parse_bytes, parse_macs, parse_seconds, parse_whole
from anysr.cli.models import MODEL_HELP, parse_subnet
from anysr.imaging import FORMATS, MAX_MEGAPIXELS
from anysr.upscaling import Enlargement, FileOptions, Limits, Request
from anysr.upscaling.plan import PRECISIONS, Tile
from anysr.upscaling.targets import parse_scale, parse_size

T = TypeVar("T")


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
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
    quality = (
        "1 … 100 of JPEG and WebP, of which WebP is lossless at 100; default 95, and a lossless WebP stays so; PNG and "
        "TIFF are lossless and have none"
    )
    files.add_argument("--quality", type=int, metavar="Q", help=quality)
    files.add_argument(
        "--overwrite", action="store_true", help="also what is in the output folder already, made by anysr or not"
    )
    files.add_argument("--max-megapixels", type=float, default=MAX_MEGAPIXELS, metavar="MP", help="of input and output")


def request_of(args: argparse.Namespace) -> Request:
    """What they say is wanted of each image; raises ValueError."""
    enlargement = Enlargement(
        _given(parse_scale, args.scale),
        _given(parse_size, args.size),
        args.width,
        args.height,
        args.long_edge,
    )
    limits = Limits(
        _given(parse_macs, args.budget),
        _given(parse_seconds, args.latency),
        _given(parse_bytes, args.memory),
    )
    return Request(enlargement, limits, parse_subnet(args.subnet), args.precision, args.self_ensemble, _tile(args.tile))


def options_of(args: argparse.Namespace) -> FileOptions:
    """How they say files are read and written; raises ValueError."""
    return FileOptions(args.quality, args.max_megapixels)


def suffix_of(args: argparse.Namespace) -> str | None:
    """Of the results' names; None is the image's own."""
    return FORMATS[args.format.upper()].suffixes[0] if args.format else None


def _given(parse: Callable[[str], T], text: str | None) -> T | None:
    """An empty text is no value, and an error: a variable of a script that was not set."""
    return None if text is None else parse(text)


def _tile(text: str) -> Tile:
    if text == "auto" or text == "off":
        return None if text == "off" else "auto"
    side = parse_whole(text)
    if not side:
        raise ValueError(f"--tile must be auto, off, or pixels a side, got {text[:40]!r}")
    return side


def _pixels(text: str) -> int:
    side = parse_whole(text)
    if not side:
        raise argparse.ArgumentTypeError(f"must be a whole number of pixels, got {text[:40]!r}")
    return side
