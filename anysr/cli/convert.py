"""Write a released .pth checkpoint as a safe model file.

Example:
  anysr convert rdn-liif.pth rdn-liif.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anysr
from anysr.cli.models import check_keeps_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("source", metavar="IN", type=Path, help="checkpoint of LIIF, SRNO, AnySR, Meta-SR or ArbSR")
    parser.add_argument("target", metavar="OUT.safetensors", type=Path)


def run(args: argparse.Namespace) -> int:
    """Read, write, say what it was."""
    if args.target.suffix != ".safetensors":
        raise ValueError(f"the output must be named *.safetensors, got {args.target}")
    check_keeps_model(args.source, args.target)
    model = anysr.load(args.source)
    anysr.save(model, args.target)
    config = model.config
    params = sum(p.numel() for p in model.parameters())
    print(
        f"{args.target}: {config.encoder.kind} + {config.decoder.kind}, {params:,} parameters, "
        f"{len(config.subnets)} subnets"
    )
    return 0
