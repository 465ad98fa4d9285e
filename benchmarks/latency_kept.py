"""Is `--latency` kept? Limits that are just met, ten runs each, on an idle machine.

    python -m benchmarks.latency_kept --model anysr-tiny --csv benchmarks/results/latency_kept.csv

The device is measured first, as anysr upscale does. Then images of sizes and scales that were not measured are enlarged
under the tightest limit that each subnet's prediction allows. Exit status 1 where fewer than nine of ten runs keep it.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

from anysr.amounts import show_seconds
from anysr.cli.models import open_model
from anysr.cli.timing import QUICK
from anysr.imaging import Picture
from anysr.upscaling import Enlargement, Limits, Request, Upscaler
from anysr.upscaling.measure import measure
from pipeline.errors import run_command

_CASES = (((48, 80), 1.7), ((90, 120), 2.37), ((120, 160), 3.3), ((200, 300), 2.0), ((320, 240), 2.8))
_RUNS = 10


def main() -> int:
    """Measure, run, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="as for anysr upscale")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    opened = open_model(args.model)
    profile = measure(Upscaler(opened.model, args.device), opened.digest, ("fp32",), QUICK)
    upscaler = Upscaler(opened.model, args.device, profile)
    rows = [row for size, scale in _CASES for row in _rows(upscaler, size, scale)]
    for row in rows:
        print(
            f"{row['lr_size']} x{row['scale']} subnet {row['subnet']}: limit {show_seconds(row['limit_s'])}, median "
            f"{show_seconds(row['median_s'])}, slowest {show_seconds(row['slowest_s'])}, kept {row['kept']}/{_RUNS}"
        )
    if args.csv:
        with args.csv.open("w", newline="") as file:
            about = {"model": opened.name, "device": profile.device}
            writer = csv.DictWriter(file, [*rows[0], *about])
            writer.writeheader()
            writer.writerows({**row, **about} for row in rows)
    return 0 if all(row["kept"] >= 0.9 * _RUNS for row in rows) else 1


def _rows(upscaler: Upscaler, lr_size: tuple[int, int], scale: float) -> list[dict[str, float]]:
    picture = Picture(np.random.default_rng(1).integers(0, 256, (*lr_size, 3), dtype=np.uint8))
    enlargement = Enlargement((scale, scale))
    rows = []
    for index in range(upscaler.plan(picture, Request(enlargement)).own.index + 1):
        limit = upscaler.plan(picture, Request(enlargement, subnet=index)).seconds
        assert limit is not None
        results = [upscaler.enlarge(picture, Request(enlargement, Limits(seconds=limit))) for _ in range(_RUNS)]
        seconds = np.array([result.seconds for result in results])
        rows.append(
            {
                "lr_size": f"{lr_size[1]}x{lr_size[0]}",
                "scale": scale,
                "subnet": results[0].plan.subnet.index,
                "limit_s": limit,
                "median_s": float(np.median(seconds)),
                "slowest_s": float(seconds.max()),
                "kept": int((seconds <= limit).sum()),
            }
        )
    return rows


if __name__ == "__main__":
    sys.exit(run_command(main))
