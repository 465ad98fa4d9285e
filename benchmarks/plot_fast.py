"""Draw the results of benchmarks.fast_vs_textbook: python -m benchmarks.plot_fast results.csv [results.png]."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from pipeline.errors import run_command


def main() -> int:
    """One group of bars per network and scale, one bar per precision and kernel choice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="what fast_vs_textbook wrote with --csv")
    parser.add_argument("picture", type=Path, nargs="?", help="else beside the results")
    args = parser.parse_args()
    source, target = args.results, args.picture or args.results.with_suffix(".png")
    rows = [row for row in csv.DictReader(source.open()) if row["subnet"] == "full"]
    groups = sorted({(row["network"], float(row["scale"])) for row in rows}, reverse=True)
    forms = sorted({(row["precision"], row["kernels"]) for row in rows})
    ratio = {(r["network"], float(r["scale"]), r["precision"], r["kernels"]): float(r["ratio"]) for r in rows}
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.55 * len(groups)), layout="constrained")
    bar = 0.8 / len(forms)
    for i, form in enumerate(forms):
        lengths = [ratio.get((*group, *form), np.nan) for group in groups]
        places = np.arange(len(groups)) + bar * (i - (len(forms) - 1) / 2)
        bars = axes.barh(places, lengths, bar, label=f"{form[0]}, kernels {form[1]}")
        axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
    axes.set_yticks(range(len(groups)), [f"{network} ×{scale:g}" for network, scale in groups])
    axes.set_xscale("log")
    axes.set_xlim(1, None)
    axes.set_xlabel("times as fast as the textbook form, image to image")
    axes.set_title(f"{rows[0]['lr_px']}² LR, {rows[0]['threads']} thread(s), {rows[0]['cpu']}", fontsize=9)
    axes.legend(fontsize=8)
    figure.savefig(target, dpi=150)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
