"""What a budget costs in quality: PSNR and multiply-adds of every subnet at one scale, as Markdown and CSV.

    python -m benchmarks.quality_per_subnet --model anysr-base --hr data/Set14 --scale 2

LR by Pillow's bicubic; PSNR on Y in dB, border = scale rounded up, floats: the protocol "liif" of jobs/evaluate.py.
Fails where a wider subnet is worse by more than the tolerance: then a smaller budget would be the better choice.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

import anysr
from anysr.amounts import show_macs
from anysr.cli.models import OpenedModel, open_model
from anysr.metrics import psnr
from pipeline.data.degrade import lr_hr_pair, resize_bicubic
from pipeline.data.photos import Pixels, decode_rgb, list_photos
from pipeline.errors import run_command

_TOLERANCE_DB = 0.02


@dataclass(frozen=True)
class Row:
    """Means over the images."""

    subnet: str
    encoder_channels: int
    decoder_channels: int
    macs: float
    psnr_y: float
    gain_over_bicubic: float


def main() -> int:
    """Score every subnet, print the table, write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="as for anysr upscale")
    parser.add_argument("--hr", type=Path, required=True, help="folder of HR images")
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--csv", type=Path, help="write the rows here, too")
    args = parser.parse_args()
    opened = open_model(args.model)
    rows = score(opened, list_photos(args.hr), args.scale)
    print(
        f"{opened.name} on {args.hr.name} at ×{args.scale:g}, sha256 {opened.digest[:16]}, torch {torch.__version__}\n"
    )
    print("| subnet | encoder, decoder channels | multiply-adds an image | PSNR on Y, dB | over bicubic |")
    print("|--:|--:|--:|--:|--:|")
    for row in rows:
        print(
            f"| {row.subnet} | {row.encoder_channels}, {row.decoder_channels} | {show_macs(row.macs)} | "
            f"{row.psnr_y:.2f} | {row.gain_over_bicubic:+.2f} |"
        )
    if args.csv:
        write_csv(args.csv, rows, opened, args.hr.name, args.scale)
    falls = [b.psnr_y - a.psnr_y for a, b in itertools.pairwise(rows)]
    if min(falls, default=0) < -_TOLERANCE_DB:
        print("a wider subnet is worse than a narrower one", file=sys.stderr)
        return 1
    return 0


@torch.inference_mode()
def score(opened: OpenedModel, photos: list[Path], scale: float) -> list[Row]:
    """A row for each subnet, narrowest first."""
    model, pairs = opened.model, [lr_hr_pair(decode_rgb(path, 100), scale) for path in photos]
    bicubic = float(np.mean([_psnr(_tensor(resize_bicubic(lr, hr.shape[:2])), hr, scale) for lr, hr in pairs]))
    rows = []
    for subnet in model.subnets:
        scores, macs = [], []
        for lr, hr in pairs:
            sr = model(_tensor(lr)[None], scale, hr.shape[:2], subnet=subnet.index)[0]
            scores.append(_psnr(sr, hr, scale))
            macs.append(anysr.cost(model, lr.shape[:2], scale, subnet.index).macs)
            print(f"subnet {subnet.index}: {len(scores)}/{len(pairs)}", file=sys.stderr, flush=True)
        mean = float(np.mean(scores))
        channels = subnet.encoder_channels, subnet.decoder_channels
        rows.append(Row(str(subnet.index), *channels, float(np.mean(macs)), mean, mean - bicubic))
    return rows


def write_csv(path: Path, rows: list[Row], opened: OpenedModel, suite: str, scale: float) -> None:
    """Rows with what they were measured on."""
    about = {"model": opened.name, "sha256": opened.digest, "suite": suite, "scale": scale, "torch": torch.__version__}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*(f.name for f in fields(Row)), *about])
        writer.writeheader()
        writer.writerows({**asdict(row), **about} for row in rows)


def _psnr(sr: torch.Tensor, hr: Pixels, scale: float) -> float:
    return psnr(sr.float(), _tensor(hr), math.ceil(scale), "y")


def _tensor(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.array(pixels, dtype=np.float32)).permute(2, 0, 1) / 255


if __name__ == "__main__":
    sys.exit(run_command(main))
