"""Show what a model file holds: networks, subnets, what each costs, and where the file comes from.

Examples:
  anysr info runs/mine/model.safetensors
  anysr info anysr-base --lr-size 640x480 --json
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from safetensors import SafetensorError, safe_open

from anysr.amounts import parse_whole, show_macs
from anysr.cli import shown
from anysr.cli.models import MODEL_HELP, OpenedModel, open_model
from anysr.cost import cost, typical_scale
from anysr.model import Subnet

_HEADINGS = ("subnet", "scales", "encoder", "decoder", "parameters", "multiply-adds at", "executed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--lr-size", default="256x256", metavar="WxH", help="of the image that costs are told for")
    parser.add_argument("--json", action="store_true", help="all of it as JSON, the configuration too")


def run(args: argparse.Namespace) -> int:
    """Read the file, show it."""
    opened = open_model(args.model)
    before, _, after = args.lr_size.partition("x")
    width, height = parse_whole(before), parse_whole(after)
    if not (width and height):
        raise ValueError(f"--lr-size is width x height in pixels as in 256x256, got {args.lr_size[:40]!r}")
    about = describe(opened, (height, width))
    if args.json:
        print(json.dumps(about, indent=2))
    else:
        _show(about, opened)
    return 0


def describe(opened: OpenedModel, lr_size: tuple[int, int]) -> dict[str, Any]:
    """Plain values: the file, the configuration, and each subnet with its cost for an LR image of (h, w)."""
    model = opened.model
    return {
        "file": str(opened.path),
        "bytes": opened.path.stat().st_size,
        "sha256": opened.digest,
        "parameters": sum(p.numel() for p in model.parameters()),
        "lr_size": lr_size,
        "subnets": [_describe_subnet(opened, subnet, lr_size) for subnet in model.subnets],
        "config": model.config.to_dict(),
        "provenance": _provenance(opened),
    }


def _describe_subnet(opened: OpenedModel, subnet: Subnet, lr_size: tuple[int, int]) -> dict[str, Any]:
    model = opened.model
    scale = typical_scale(model, subnet)
    spent = cost(model, lr_size, scale, subnet.index)
    return {
        "index": subnet.index,
        "scales": subnet.scales,
        "encoder_channels": subnet.encoder_channels,
        "decoder_channels": subnet.decoder_channels,
        "parameters": spent.params,
        "scale": scale,
        "macs": spent.macs,
        "executed_macs": spent.executed_macs,
    }


def _provenance(opened: OpenedModel) -> dict[str, Any]:
    """What the file says beside its configuration."""
    try:
        with safe_open(opened.path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
    except SafetensorError:
        return {"format": "released checkpoint"}
    own = json.loads(metadata.pop("anysr", "{}"))
    return {**{key: value for key, value in own.items() if key != "config"}, **metadata}


def _show(about: dict[str, Any], opened: OpenedModel) -> None:
    config = opened.model.config
    h, w = about["lr_size"]
    woven = "with" if config.interweave is not None else "without"
    print(f"{shown(opened.path)}, {about['bytes'] / 1e6:.2f} MB, sha256 {about['sha256'][:16]}…")
    print(
        f"encoder {config.encoder.kind}, decoder {config.decoder.kind}, {woven} feature interweaving, "
        f"{about['parameters']:,} parameters"
    )
    rows = [(*_HEADINGS[:5], f"{_HEADINGS[5]} {w} x {h}", _HEADINGS[6])]
    for subnet in about["subnets"]:
        low, high = subnet["scales"]
        is_last = subnet is about["subnets"][-1]
        rows.append(
            (
                str(subnet["index"]),
                f"x{low:g} and more" if is_last else f"x{low:g} up to {high:g}",
                str(subnet["encoder_channels"]),
                str(subnet["decoder_channels"]),
                f"{subnet['parameters']:,}",
                f"x{subnet['scale']:g}: {show_macs(subnet['macs'])}",
                show_macs(subnet["executed_macs"]),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(cell.rjust(n) for cell, n in zip(row, widths, strict=True)))
    for key, value in about["provenance"].items():
        print(f"{key}: {value if isinstance(value, str) else json.dumps(value)}")
