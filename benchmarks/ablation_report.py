"""Table and plot of benchmarks/ablation.py's rows."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

Scores = dict[str, dict[float, list[dict[str, float]]]]
NUMBERS = ("own", "full", "smallest", "saved", "own_gmacs", "steps", "cpu_s")


def read_rows(path: Path) -> Scores:
    """Variant -> scale -> one mapping per seed."""
    found: Scores = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["variant"]][float(row["scale"])].append({name: float(row[name]) for name in NUMBERS})
    return found


def write_report(path: Path) -> None:
    """Write ``path`` with .md and .png in the place of its suffix."""
    rows = read_rows(path)
    path.with_suffix(".md").write_text(_table(rows))
    _plot(rows, path.with_suffix(".png"))


def _table(rows: Scores) -> str:
    scales = sorted(next(iter(rows.values())))
    lines = [
        "PSNR in dB on Y of Kodak24's central 128 px through each scale's own subnet, mean ± standard deviation over",
        "seeds (n); behind it the full network, and the smallest one. Saved: whole-network multiply-adds against full.",
        "",
        "| variant | n | steps | " + " | ".join(f"×{s:g} own ± | full | smallest | saved" for s in scales) + " |",
        "|---|--:|--:|" + "--:|--:|--:|--:|" * len(scales),
    ]
    for variant, by_scale in rows.items():
        first = by_scale[scales[0]]
        cells = [_cells(by_scale[scale]) for scale in scales]
        lines.append(f"| {variant} | {len(first)} | {np.mean([r['steps'] for r in first]):.0f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cells(seeds: list[dict[str, float]]) -> str:
    own, full, smallest = ([seed[name] for seed in seeds] for name in ("own", "full", "smallest"))
    spread = f" ± {np.std(own, ddof=1):.2f}" if len(own) > 1 else ""
    shares = f"{np.mean(full):.2f} | {np.mean(smallest):.2f} | {np.mean([s['saved'] for s in seeds]):.0%}"
    return f"{np.mean(own):.2f}{spread} | {shares}"


def _plot(rows: Scores, target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scales = sorted(next(iter(rows.values())))
    figure, axes = pyplot.subplots(1, len(scales), figsize=(3.2 * len(scales), 4), sharey=True, layout="constrained")
    names = list(rows)
    for axis, scale in zip(axes, scales, strict=True):
        paper = np.mean([seed["own"] for seed in rows["paper"][scale]])
        for y, name in enumerate(names):
            differences = [seed["own"] - paper for seed in rows[name][scale]]
            axis.plot(differences, [y] * len(differences), ".", color="tab:blue", alpha=0.5)
            axis.plot(np.mean(differences), y, "|", color="black", markersize=14)
        axis.axvline(0, color="0.8", zorder=0)
        axis.set_title(f"×{scale:g}, own subnet")
        axis.set_xlabel("dB against the paper's recipe")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.savefig(target, dpi=110)
    pyplot.close(figure)
