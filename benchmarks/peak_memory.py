"""How much memory does an enlargement take, and how does it grow with the image?

    python -m benchmarks.peak_memory --networks edsr-baseline-liif edsr-baseline-srno --sizes 256 512 1024 --scale 4

Each enlargement runs in a process of its own. ``peak_mib`` is the most that was resident in it, with Python, torch,
the network, the image and its enlargement; ``before_mib`` what was resident when the network and the image were there.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

import anysr
from pipeline.evaluation.environment import processor, short_commit


@dataclass(frozen=True)
class Row:
    """One line of the results."""

    network: str
    precision: str
    kernels: str
    lr_px: int
    scale: float
    before_mib: float
    peak_mib: float
    seconds: float
    threads: int
    cpu: str
    torch: str
    commit: str


def main() -> None:
    """One row for each network, precision, kernel choice and size."""
    args = parse()
    if args.child:
        print(json.dumps(asdict(enlarged(*json.loads(args.child), args.scale, args.threads))))
        return
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        writer.writeheader()
        for case in itertools.product(args.networks, args.precisions, args.kernels, args.sizes):
            row = in_a_process(case, args)
            writer.writerow(row)
            file.flush()
            mib = f"{row['peak_mib']:.0f} MiB, {row['before_mib']:.0f} before"
            print(*case, f"{mib}; {row['seconds']:.1f} s", flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = [f"edsr-baseline-{decoder}" for decoder in ("liif", "srno", "metasr", "arbsr")]
    parser.add_argument("--networks", nargs="+", choices=anysr.list_models(), metavar="NAME", default=networks)
    parser.add_argument("--precisions", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--kernels", nargs="+", choices=["on", "off"], default=["on"], help="ANYSR_KERNELS")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512, 1024], help="side of the LR image")
    parser.add_argument("--scale", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("peak_memory.csv"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def in_a_process(case: tuple[str, str, str, int], args: argparse.Namespace) -> dict[str, object]:
    """The row that a fresh process answers."""
    command = [sys.executable, "-m", "benchmarks.peak_memory", "--child", json.dumps(case)]
    command += ["--scale", str(args.scale), "--threads", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


@torch.no_grad()
def enlarged(network: str, precision: str, kernels: str, lr_px: int, scale: float, threads: int) -> Row:
    """Enlarge one image here."""
    os.environ["ANYSR_KERNELS"] = kernels
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = anysr.build(network).eval().fuse().to(getattr(torch, precision))
    lr = torch.rand(1, 3, lr_px, lr_px)
    before, start = _peak_mib(), time.process_time()
    model(lr, scale)
    seconds = time.process_time() - start
    machine = processor(), torch.__version__, short_commit()
    return Row(network, precision, kernels, lr_px, scale, before, _peak_mib(), seconds, threads, *machine)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
