"""Write a network for other runtimes: ONNX (the default), torch.export, or a subnet as a model file of its own.

Each subnet is written physically small, takes any image size and any scale, and is compared with the
network before it is kept. A folder of ONNX files holds a manifest and anysr_runtime.py, which enlarges
images with onnxruntime and numpy alone; docs/export.md shows how.

Examples:
  anysr export -o exported/                                       # the network in the box, every subnet
  anysr export runs/mine/model.safetensors -o x2.onnx --subnet 1
  anysr export models:/anysr@champion -o exported/ --format pt2
  anysr export anysr-base -o small.safetensors --subnet 0
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import cast, get_args

import anysr
from anysr.cli import shown
from anysr.cli.models import MODEL_HELP, check_keeps_model, open_model, parse_subnet
from anysr.export import Format, export_file, export_folder

_FORMATS = get_args(Format)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="OUT", help="a folder, or a file for one --subnet"
    )
    parser.add_argument("--format", choices=_FORMATS, help="by default what OUT is named after, else onnx")
    parser.add_argument("--subnet", metavar="INDEX", help="the only one to write, or full; by default every one")


def run(args: argparse.Namespace) -> int:
    """Write, compare, say what was written."""
    kind, is_file = _kind(args.output, args.format)
    opened = open_model(args.model)
    if not is_file and args.subnet is None:
        for subnet in opened.model.subnets:
            check_keeps_model(opened.path, args.output / f"subnet{subnet.index}.{kind}")
        print(
            f"{len(opened.model.subnets)} subnets, some seconds each; minutes where there are hundreds of blocks",
            file=sys.stderr,
        )
        for path, worst in export_folder(opened.model, args.output, kind, opened.path.stem):
            _tell(path, worst)
        return 0
    index = _index(opened.model, args.subnet)
    path = args.output if is_file else args.output / f"subnet{index}.{kind}"
    check_keeps_model(opened.path, path)
    _tell(path, export_file(opened.model, index, path, kind, opened.path.stem))
    return 0


def _kind(output: Path, given: str | None) -> tuple[Format, bool]:
    """The format, and whether ``output`` is a file."""
    ending = output.suffix.removeprefix(".").lower()
    if ending not in _FORMATS or output.is_dir():
        if output.is_file():
            raise ValueError(f"{shown(output)} is a file; name a folder, or a file ending in .{', .'.join(_FORMATS)}")
        return cast(Format, given or "onnx"), False
    if given not in (None, ending):
        raise ValueError(f"--format {given} writes *.{given}, got {shown(output)}")
    return cast(Format, ending), True


def _index(model: anysr.AnySR, given: str | None) -> int:
    if given is None and len(model.subnets) > 1:
        last = len(model.subnets) - 1
        raise ValueError(f"one file holds one subnet; say which with --subnet 0 … {last}, or name a folder for all")
    choice = parse_subnet(given or "full")
    if choice == "auto":
        raise ValueError("--subnet auto depends on the scale; give an index that anysr info lists, or full")
    return model.subnet_for(choice, 1.0).index


def _tell(path: Path, worst: float) -> None:
    size = path.stat().st_size / 1e6
    print(f"{shown(path)}: {size:.2f} MB, within {worst:.1e} of the network at every size and scale tried", flush=True)
