"""What a search leaves: trials, front, picture, importance, ablation table and the best configuration."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import yaml
from rich.console import Console
from rich.table import Table

from anysr.files import whole_file
from pipeline.files import write_text
from pipeline.search.ablation import ablation_rows, write_ablation
from pipeline.search.importance import METHOD, importances
from pipeline.search.ledger import Trial
from pipeline.search.objectives import pareto_front
from pipeline.search.search import best_trial, words
from pipeline.search.space import Space
from pipeline.train.validation import in_words

Row = dict[str, Any]


def write_outputs(folder: Path, name: str, space: Space, trials: Sequence[Trial]) -> list[Path]:
    """Write everything into the search's folder, print the front, and return the files.

    Raises:
        UserError: no trial has finished.
    """
    best = best_trial(list(trials), space.settings.db_per_doubling)
    front = _front(trials)
    rows = [_row(trial, space) for trial in trials]
    front_rows = [{**_row(trial, space), "best": trial is best} for trial in front]
    shares = importances(space, trials)
    files = [
        folder / file for file in ("trials.csv", "front.csv", "front.json", "importance.csv", "front.png", "best.yaml")
    ]
    trials_csv, front_csv, front_json, importance_csv, picture, configuration = files
    _write_csv(trials_csv, rows)
    _write_csv(front_csv, front_rows)
    write_text(front_json, json.dumps(front_rows, indent=1) + "\n")
    important = [{"choice": key, "psnr": psnr, "gmacs": macs, "method": METHOD} for key, (psnr, macs) in shares.items()]
    _write_csv(importance_csv, important, ("choice", "psnr", "gmacs", "method"))
    scored = in_words(space.reference().validation)
    _plot(picture, name, scored, trials, front, best)
    write_text(configuration, _configuration(name, space, best))
    tables = write_ablation(folder, ablation_rows(space, trials), scored)
    _print(front, best, shares)
    return [*files, *tables]


def _front(trials: Sequence[Trial]) -> list[Trial]:
    done = [(trial, trial.objectives) for trial in trials if trial.status == "finished" and trial.objectives]
    return [done[i][0] for i in pareto_front([objectives for _, objectives in done])]


def _row(trial: Trial, space: Space) -> Row:
    last = trial.reports[-1] if trial.reports else None
    chosen = {key: _cell(trial.chosen.get(key, "base")) for key in space.variables}
    return {
        "trial": trial.number,
        "status": trial.status,
        "psnr": None if last is None else round(last.psnr, 4),
        "gmacs": round(trial.macs / 1e9, 4),
        "score": None if trial.objectives is None else round(trial.objectives.score(space.settings.db_per_doubling), 4),
        "params": trial.params,
        "step": 0 if last is None else last.step,
        "steps": trial.steps,
        **({} if last is None else {f"psnr_x{scale}": round(value, 4) for scale, value in last.psnr_by_scale.items()}),
        **chosen,
        "run": trial.name,
        "reason": trial.reason,
    }


def _cell(value: Any) -> Any:
    return "none" if value is None else value if isinstance(value, str | int | float) else json.dumps(value)


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> None:
    columns = list(dict.fromkeys([*names, *(key for row in rows for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _plot(path: Path, name: str, scored: str, trials: Sequence[Trial], front: Sequence[Trial], best: Trial) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.6))
    looks: dict[str, dict[str, Any]] = {
        "finished": {"color": "tab:blue"},
        "stopped": {"facecolors": "none", "edgecolors": "0.6"},
    }
    for status, look in looks.items():
        shown = [(t.macs / 1e9, t.reports[-1].psnr) for t in trials if t.status == status and t.reports]
        if shown:
            axes.scatter(*zip(*shown, strict=True), label=f"{status} trials", **look)
    steps = [(trial.macs / 1e9, trial.reports[-1].psnr) for trial in front]
    axes.step(*zip(*steps, strict=True), where="post", color="tab:blue", alpha=0.6, label="Pareto front")
    for trial, place in zip(front, steps, strict=True):
        axes.annotate(str(trial.number), place, textcoords="offset points", xytext=(5, 5), fontsize=8)
    axes.scatter([best.macs / 1e9], [best.reports[-1].psnr], marker="*", s=160, color="tab:orange", label="best")
    axes.set_xlabel("10⁹ multiply-adds of a 256 x 256 input, mean over the scale range")
    axes.set_ylabel("PSNR, mean over the scales, dB")
    axes.annotate(scored, (0, -0.2), xycoords="axes fraction", fontsize=7)
    axes.set_title(f"{name}: quality over cost")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    with whole_file(path, ".png") as partial:
        figure.savefig(partial, dpi=120)
    plt.close(figure)


def _configuration(name: str, space: Space, best: Trial) -> str:
    """The best trial as a training configuration of its own, without the search's run names and times of scoring."""
    config = space.config(best.chosen)
    values = config.to_dict()
    del values["run"]
    values["train"]["steps"] = best.steps
    return (
        f"# Trial {best.number} of the search {name}: {best.reports[-1].psnr:.2f} dB at {best.macs / 1e9:.2f} G "
        f"multiply-adds.\n# {words(best.chosen)}\n# Trained for {best.steps} steps in the search; raise train.steps "
        f"for a real run.\n{yaml.safe_dump(values, sort_keys=False)}"
    )


def _print(front: Sequence[Trial], best: Trial, shares: Mapping[str, tuple[float, float]]) -> None:
    console = Console(width=120)
    table = Table(title="Pareto front, the cheapest first")
    for heading in ("trial", "PSNR, dB", "G multiply-adds", "choices"):
        table.add_column(heading, justify="left" if heading == "choices" else "right")
    for trial in front:
        number = f"{trial.number} *" if trial is best else str(trial.number)
        table.add_row(number, f"{trial.reports[-1].psnr:.2f}", f"{trial.macs / 1e9:.2f}", words(trial.chosen))
    console.print(table)
    console.print("* best by PSNR less the price of its multiply-adds (search.db_per_doubling)", highlight=False)
    for key, (psnr, macs) in shares.items():
        console.print(f"importance of {key}: {psnr:.0%} for PSNR, {macs:.0%} for multiply-adds", highlight=False)
