"""How many dB does bfloat16 inference lose?

    python -m benchmarks.bf16_loss ~/data/Set5 model.pth other.safetensors --scales 2 3 4 --out bf16_loss.csv

PSNR on Y (border = scale) of each image in float32 and in bfloat16, LR by Pillow's bicubic.
"""

from __future__ import annotations

import argparse
import copy
import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import anysr
from anysr.metrics import psnr
from pipeline.data.photos import hr_folder, list_photos
from pipeline.evaluation.environment import processor, short_commit


def main() -> None:
    """One row for each model and scale: the mean over the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("bf16_loss.csv"))
    args = parser.parse_args()
    images = list_photos(hr_folder(args.images))
    with args.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["model", "scale", "images", "psnr_float32", "psnr_bfloat16", "loss_db", "cpu", "torch", "commit"]
        )
        for path in args.models:
            single = anysr.load(path).eval()
            half = copy.deepcopy(single).bfloat16()
            for scale in args.scales:
                scores = np.array([scores_of(image, single, half, scale) for image in images])
                mean = scores.mean(0)
                row = [path.name, scale, len(scores), *mean.round(4), round(mean[0] - mean[1], 4)]
                writer.writerow([*row, processor(), torch.__version__, short_commit()])
                file.flush()
                print(*row)


@torch.no_grad()
def scores_of(path: Path, single: anysr.AnySR, half: anysr.AnySR, scale: int) -> tuple[float, float]:
    """PSNR of float32 and of bfloat16."""
    image = Image.open(path).convert("RGB")
    width, height = (n // scale for n in image.size)
    image = image.crop((0, 0, width * scale, height * scale))
    lr, hr = (_tensor(i) for i in (image.resize((width, height), Image.Resampling.BICUBIC), image))
    return _psnr(single(lr, scale), hr, scale), _psnr(half(lr, scale).float(), hr, scale)


def _psnr(sr: torch.Tensor, hr: torch.Tensor, border: int) -> float:
    return float(psnr(sr[0].clamp(0, 1), hr[0], border=border, channel="y"))


def _tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


if __name__ == "__main__":
    main()
