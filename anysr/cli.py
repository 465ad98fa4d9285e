"""The ``anysr`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import anysr


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when done, 2 when the request cannot be met, with the reason in one line."""
    parser = argparse.ArgumentParser(prog="anysr", description=anysr.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert", help="write a released .pth checkpoint as a safe model file")
    convert.add_argument("source", metavar="IN", type=Path, help="checkpoint of LIIF, SRNO, AnySR, Meta-SR or ArbSR")
    convert.add_argument("target", metavar="OUT.safetensors", type=Path)
    args = parser.parse_args(arguments)
    try:
        _convert(args.source, args.target)
    except (OSError, ValueError) as error:
        print(f"anysr: {error}", file=sys.stderr)
        return 2
    return 0


def _convert(source: Path, target: Path) -> None:
    if target.suffix != ".safetensors":
        raise ValueError(f"the output must be named *.safetensors, got {target}")
    model = anysr.load(source)
    anysr.save(model, target)
    config = model.config
    params = sum(p.numel() for p in model.parameters())
    print(
        f"{target}: {config.encoder.kind} + {config.decoder.kind}, {params:,} parameters, {len(config.subnets)} subnets"
    )


if __name__ == "__main__":
    sys.exit(main())
