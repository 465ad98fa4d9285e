"""Enlarge all images below a folder or S3 prefix into another, by workers on Ray.

The workers are those of the cluster at RAY_ADDRESS, else of one started here, which is gone afterwards. Each holds the
network and takes one image at a time; the results are those of anysr upscale, byte for byte. Started again, it does
what is missing: images that failed, have changed, or were asked for otherwise or of another model.

how large, in one way: --scale 2.37, --scale 2x3.1 (height x width), --size 1920x1080, --width, --height, --long-edge

Examples:
    python jobs/upscale.py photos/ -o large/ --scale 2.37 --workers 2
    python jobs/upscale.py s3://bucket/photos -o s3://bucket/large --long-edge 4096 --model models:/anysr@champion
    RAY_ADDRESS=http://head:8265 python jobs/upscale.py s3://bucket/photos -o s3://bucket/x2 --scale 2 --budget 200G

Exit status: 0 all are there; 1 some images failed, see upscale-failures.csv (and .parquet) beside the results; 2 the
request cannot be met; 130 interrupted.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from anysr.cli import shown
from anysr.cli.models import open_model
from anysr.cli.request import add_request_arguments, options_of, request_of, suffix_of
from anysr.cli.timing import profile_for
from pipeline.batch.enlarge import Order, Outcome
from pipeline.batch.run import Spread, enlarge_all
from pipeline.batch.units import Unit, find_units
from pipeline.errors import UserError, run_command
from pipeline.on_ray.submit import (
    REMOTE,
    REMOTE_HELP,
    change_folder,
    exit_on_signals,
    jobs_address,
    submit_command,
    workers_argument,
)
from pipeline.storage.places import Place, parse_place


def main() -> int:
    """Parse, check everything that can be checked beforehand, enlarge."""
    args = _parser().parse_args()
    if address := jobs_address():
        return submit_command(ROOT, "jobs/upscale.py", address)
    change_folder(args.chdir)
    order = _order(args)
    units, odd = find_units(_place(args.source), order.out, suffix_of(args))
    print(f"model {shown(args.model or 'in the box')}, {len(units)} images", file=sys.stderr)
    return 1 if enlarge_all(order, units, odd, _on_ray(args.workers), shlex.join(sys.argv[1:])) else 0


def _order(args: argparse.Namespace) -> Order:
    request, options, out = request_of(args), options_of(args), _place(args.out)
    if args.latency and not args.device_profile:
        raise UserError(
            "--latency needs the --device-profile of a worker's machine: write one there with anysr profile -o FILE"
        )
    opened = open_model(args.model)
    opened.model.subnet_for(request.subnet, 1.0)
    profile = None
    if args.device_profile:
        profile = profile_for(opened, torch.device("cpu"), request.precision, args.device_profile)
    return Order(opened.model, opened.digest, request, options, args.device, profile, out, args.overwrite)


def _on_ray(num_workers: int | None) -> Spread:
    def spread(order: Order, units: Sequence[Unit]) -> Iterator[Outcome]:
        from pipeline.on_ray.connect import connected
        from pipeline.on_ray.upscale import over_actors

        exit_on_signals()
        with connected(num_workers):
            yield from over_actors(num_workers)(order, units)

    return spread


def _place(text: str) -> Place:
    """In full: the workers run in folders of their own."""
    place = parse_place(text)
    return place.expanduser().absolute() if isinstance(place, Path) else place


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("source", metavar="IN", help="folder or s3://bucket/prefix; all images below it, hidden ones left out")
    add("-o", "--out", required=True, metavar="OUT", help="folder or s3://bucket/prefix")
    add("--workers", type=workers_argument(1), metavar="N", help="one CPU each; without this there is one on each CPU")
    add(REMOTE, action="store_true", help=REMOTE_HELP)
    add("--chdir", type=Path, help="folder that paths are relative to")
    add_request_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
