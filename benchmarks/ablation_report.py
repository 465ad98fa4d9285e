"""Table and plot of benchmarks/ablation.py's rows."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

Scores = dict[str, dict[float, list[dict[str, float]]]]
NUMBERS = ("seed", "own", "full", "smallest", "saved", "own_gmacs", "steps", "cpu_s")


def read_rows(path: Path) -> Scores:
    """Variant -> scale -> one mapping per seed, in order of seeds."""
    found: Scores = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as file:
        for row in sorted(csv.DictReader(file), key=lambda row: int(row["seed"])):
            found[row["variant"]][float(row["scale"])].append({name: float(row[name]) for name in NUMBERS})
    return found


def write_report(path: Path) -> None:
    """Write ``path`` with .md and .png in the place of its suffix."""
    rows = read_rows(path)
    if "paper" not in rows:
        raise SystemExit(f"{path} has no row of the paper's recipe yet, against which the report compares")
    path.with_suffix(".md").write_text(_table(rows))
    _plot(rows, path.with_suffix(".png"))


def _table(rows: Scores) -> str:
    return "\n".join([*_summary(rows), "", *_by_scale(rows)]) + "\n"


def _summary(rows: Scores) -> list[str]:
    lines = [
        "Gain over the paper's recipe, in dB through each scale's own subnet: of the same seed, mean over the scales;",
        "mean ± standard deviation over seeds (n). Smallest: the narrowest network at all scales, against the paper's.",
        "Cost: multiply-adds of an enlargement through the own subnets, mean over the scales, against the paper's.",
        "",
        "| variant | n | steps | own | smallest | cost | saved at "
        + " / ".join(f"×{s:g}" for s in _scales(rows))
        + " |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for variant in rows:
        own, smallest = (gains(rows, variant, which) for which in ("own", "smallest"))
        steps = np.mean([seed["steps"] for seed in rows[variant][_scales(rows)[0]]])
        saved = " / ".join(f"{np.mean([seed['saved'] for seed in rows[variant][s]]):.0%}" for s in _scales(rows))
        cost = _mean_cost(rows[variant]) / _mean_cost(rows["paper"])
        gained = f"{_spread(own)} | {_spread(smallest)}"
        lines.append(f"| {variant} | {len(own)} | {steps:.0f} | {gained} | {cost:.2f} | {saved} |")
    return lines


def _mean_cost(by_scale: dict[float, list[dict[str, float]]]) -> float:
    return float(np.mean([seeds[0]["own_gmacs"] for seeds in by_scale.values()]))


def gains(rows: Scores, variant: str, network: str) -> list[float]:
    """PSNR against the paper's recipe, mean over the scales, for each seed that both have."""
    paper = {(scale, seed["seed"]): seed[network] for scale, seeds in rows["paper"].items() for seed in seeds}
    by_seed: dict[float, list[float]] = defaultdict(list)
    for scale, seeds in rows[variant].items():
        for seed in seeds:
            if (scale, seed["seed"]) in paper:
                by_seed[seed["seed"]].append(seed[network] - paper[scale, seed["seed"]])
    return [float(np.mean(differences)) for differences in by_seed.values()]


def _scales(rows: Scores) -> list[float]:
    return sorted(next(iter(rows.values())))


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):+.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


def _by_scale(rows: Scores) -> list[str]:
    scales = _scales(rows)
    lines = [
        "PSNR in dB on Y of Kodak24's central 128 px, mean ± standard deviation over seeds; behind it the full",
        "network, and the smallest one.",
        "",
        "| variant | " + " | ".join(f"×{s:g} own ± | full | smallest" for s in scales) + " |",
        "|---|" + "--:|--:|--:|" * len(scales),
    ]
    for variant, by_scale in rows.items():
        lines.append(f"| {variant} | {' | '.join(_cells(by_scale[scale]) for scale in scales)} |")
    return lines


def _cells(seeds: list[dict[str, float]]) -> str:
    own, full, smallest = ([seed[name] for seed in seeds] for name in ("own", "full", "smallest"))
    spread = f" ± {np.std(own, ddof=1):.2f}" if len(own) > 1 else ""
    return f"{np.mean(own):.2f}{spread} | {np.mean(full):.2f} | {np.mean(smallest):.2f}"


def _plot(rows: Scores, target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scales = _scales(rows)
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
