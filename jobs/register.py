"""The model registry: which version ships.

Versions are named by number or alias: 3, candidate, champion. The registry is that of MLFLOW_TRACKING_URI, else
mlflow.db in this folder. To score a version: jobs/evaluate.py --model models:/anysr@champion.

Examples:
    python jobs/register.py list
    python jobs/register.py compare champion 3 --suite Set5=data/Set5 --suite Urban100=data/Urban100
    python jobs/register.py promote 3 --alias candidate
    python jobs/register.py promote candidate --suite Set5=data/Set5 --margin 0.02
    python jobs/register.py rollback
    python jobs/register.py export champion model.safetensors
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.errors import run_command
from pipeline.registry.compare import compare, print_comparison
from pipeline.registry.decision import Comparison
from pipeline.registry.listing import print_versions
from pipeline.registry.promotion import CANDIDATE, CHAMPION, promote, roll_back
from pipeline.registry.resolve import export_model
from pipeline.registry.versions import Registry, Version, open_registry
from pipeline.storage.places import Place, S3Uri, parse_place


def main() -> int:
    """Parse, connect, do what the first word says."""
    args = _parser().parse_args()
    registry = open_registry(args.name, args.tracking_uri)
    commands = {"list": _list, "compare": _compare, "promote": _promote, "rollback": _roll_back, "export": _export}
    with registry.answering():
        commands[args.command](registry, args)
    return 0


def _list(registry: Registry, args: argparse.Namespace) -> None:  # noqa: ARG001
    print_versions(registry)


def _compare(registry: Registry, args: argparse.Namespace) -> None:
    old, new = registry.find(args.old), registry.find(args.new)
    print_comparison(_compared(registry, old, new, args), f"version {old.number}", f"version {new.number}")


def _promote(registry: Registry, args: argparse.Namespace) -> None:
    new = registry.find(args.version)
    if args.alias == CANDIDATE:
        registry.set_alias(CANDIDATE, new)
        print(f"version {new.number} is the candidate")
        return

    def shown(old: Version, new: Version) -> Comparison:
        found = _compared(registry, old, new, args)
        print_comparison(found, f"champion {old.number}", f"version {new.number}")
        return found

    old = promote(registry, new, shown, args.margin, args.cost_margin)
    print(f"version {new.number} is the champion" + (f" after version {old.number}" if old else ", the first one"))


def _roll_back(registry: Registry, args: argparse.Namespace) -> None:  # noqa: ARG001
    present, before = roll_back(registry)
    print(f"version {before.number} is the champion again, instead of version {present.number}")


def _export(registry: Registry, args: argparse.Namespace) -> None:
    version = registry.find(args.version)
    export_model(f"models:/{registry.name}/{version.number}", args.file, registry.uri)
    print(f"version {version.number}: {args.file}")


def _compared(registry: Registry, old: Version, new: Version, args: argparse.Namespace) -> Comparison:
    uris = (f"models:/{registry.name}/{version.number}" for version in (old, new))
    return compare(*uris, args.suite, args.scales, registry.uri, lambda line: print(line, file=sys.stderr, flush=True))


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--name", default="anysr", help="the registered model")
    common.add_argument("--tracking-uri", help="the registry; else $MLFLOW_TRACKING_URI, else mlflow.db here")
    scored = argparse.ArgumentParser(add_help=False)
    scored.add_argument("--suite", action="append", metavar="NAME=HR[,LR]", help="images; else the photos in the box")
    scored.add_argument("--scales", nargs="+", default=[], help="2, 2x3.1, 1.1:4.0:0.1; else three in each scale group")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[common], help="all versions, and the champion's history")
    one = commands.add_parser("compare", parents=[common, scored], help="two versions side by side")
    one.add_argument("old")
    one.add_argument("new")
    one = commands.add_parser("promote", parents=[common, scored], help="make a version champion, if it may be")
    one.add_argument("version")
    one.add_argument("--alias", default=CHAMPION, choices=(CHAMPION, CANDIDATE), help="candidate is not compared")
    one.add_argument("--margin", type=_finite, default=0.02, help="dB by which it may be worse at a scale (0.02)")
    one.add_argument("--cost-margin", type=_finite, default=0.0, help="fraction by which it may cost more (0)")
    commands.add_parser("rollback", parents=[common], help="the champion before becomes champion again")
    one = commands.add_parser("export", parents=[common], help="write a version's model file")
    one.add_argument("version")
    one.add_argument("file", type=_file, help="here or on S3")
    return parser


def _file(text: str) -> Place:
    place = parse_place(text)
    if not (place.key if isinstance(place, S3Uri) else place.name):
        raise argparse.ArgumentTypeError(f"must name the file to write, such as model.safetensors, got {text!r}")
    return place


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, such as 0.02, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(run_command(main))
