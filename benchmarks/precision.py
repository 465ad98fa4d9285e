"""What does bfloat16 cost in dB, and bring in steps a second, on the device at hand?

    python -m benchmarks.precision --out benchmarks/results/precision.csv [key.sub=value ...]

Trains the same configuration with the same seed in float32 and in bfloat16, in this process's own
kind of device (the GPU if there is one), without Ray and MLflow, and compares the two at each
validation scale. Steps a second are the median over the lines of progress.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml

from pipeline.evaluation.environment import processor, short_commit

ROOT = Path(__file__).resolve().parent.parent
PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    """Train in both precisions; one row per precision and scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="overrides the configuration")
    parser.add_argument("--config", type=Path, default=ROOT / "jobs/configs/photos.yaml")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as storage:
        for precision in PRECISIONS:
            folder = train(args.config, args.overrides, precision, Path(storage))
            rows += rows_of(folder, precision)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    report(rows)


def train(config: Path, overrides: list[str], precision: str, storage: Path) -> Path:
    """One run without Ray and MLflow; its folder."""
    changes = [
        *overrides,
        f"train.precision={precision}",
        f"run.name={precision}",
        f"run.storage={storage}",
        "tracking.backend=jsonl",
    ]
    command = [sys.executable, "jobs/train.py", "--local", "--config", str(config), *changes]
    subprocess.run(command, cwd=ROOT, check=True)
    return storage / precision


def rows_of(folder: Path, precision: str) -> list[dict[str, Any]]:
    """The run's last scores and its pace."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    pace = statistics.median(line["value"] for line in lines if line["name"] == "train/images_per_s")
    results = json.loads((folder / "scores.json").read_text())
    batch_size = yaml.safe_load((folder / "config.yaml").read_text())["train"]["batch_size"]
    about = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": short_commit(),
    }
    return [
        {
            "precision": precision,
            "steps": results["step"],
            "steps_per_s": round(pace / batch_size, 3),
            "scale": score["scale"],
            "psnr_own_db": round(score["own"], 4),
            "psnr_full_db": round(score["full"], 4),
            **about,
        }
        for score in results["scores"]
    ]


def report(rows: list[dict[str, Any]]) -> None:
    """Pace and the difference at each scale."""
    exact, rough = ([row for row in rows if row["precision"] == precision] for precision in PRECISIONS)
    print(f"steps a second: float32 {exact[0]['steps_per_s']}, bfloat16 {rough[0]['steps_per_s']}")
    for one, other in zip(exact, rough, strict=True):
        own, full = (other[key] - one[key] for key in ("psnr_own_db", "psnr_full_db"))
        print(f"x{one['scale']:g}: bfloat16 - float32 = {own:+.3f} dB (own subnet), {full:+.3f} dB (full network)")


if __name__ == "__main__":
    main()
