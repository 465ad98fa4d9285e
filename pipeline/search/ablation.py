"""The table of one choice's values side by side, as papers print it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.files import write_text
from pipeline.search.choices import Choice
from pipeline.search.ledger import Trial
from pipeline.search.space import Space


@dataclass(frozen=True)
class AblationRow:
    """One value of one choice, over the finished trials that had it.

    Attributes:
        choice: dotted key.
        value: as text; "none" for null.
        trials: how many finished with it.
        psnr_by_scale: mean over these trials, in dB.
        psnr: mean over scales and trials, in dB.
        best_psnr: of the best of them.
        macs: mean over these trials, see ``anysr.cost.mean_macs``.
        params: mean number of weights.
    """

    choice: str
    value: str
    trials: int
    psnr_by_scale: dict[str, float]
    psnr: float
    best_psnr: float
    macs: float
    params: float


def ablation_rows(space: Space, trials: Sequence[Trial]) -> list[AblationRow]:
    """Rows for every choice from a list of values.

    Where one choice at a time was changed, a row is one trial. Else the other choices vary inside a row: its
    means are over what the sampler happened to take.
    """
    done = [trial for trial in trials if trial.status == "finished"]
    return [row for key, variable in space.variables.items() if isinstance(variable, Choice)
            for row in _rows(space, key, variable, done)]  # fmt: skip


def _rows(space: Space, key: str, variable: Choice, done: Sequence[Trial]) -> Iterator[AblationRow]:
    base: tuple[Any, ...] = variable.base
    alone = space.settings.sampler == "one_at_a_time"
    candidates = [trial for trial in done if not alone or {*trial.chosen} <= {key}]
    for value in (*variable.values, *(() if base or not alone else ("base",))):
        mine = [t for t in candidates if t.chosen.get(key, base[0] if base else "base") == value]
        if mine:
            yield _row(key, "none" if value is None else str(value), mine)


def _row(key: str, value: str, mine: Sequence[Trial]) -> AblationRow:
    scales = mine[0].reports[-1].psnr_by_scale
    by_scale = {scale: fmean(trial.reports[-1].psnr_by_scale[scale] for trial in mine) for scale in scales}
    psnrs = [trial.reports[-1].psnr for trial in mine]
    macs, params = fmean(trial.macs for trial in mine), fmean(trial.params for trial in mine)
    return AblationRow(key, value, len(mine), by_scale, fmean(psnrs), max(psnrs), macs, params)


def write_ablation(folder: Path, rows: Sequence[AblationRow], scored: str) -> list[Path]:
    """Write ``ablation.csv`` and ``ablation.md``, with ``scored`` saying what the scores are; returns the files."""
    scales = list(rows[0].psnr_by_scale) if rows else []
    heading = ["choice", "value", "trials", *(f"x{s}" for s in scales), "mean", "best", "gmacs", "params"]
    table = [heading, *(_cells(row, scales) for row in rows)]
    csv_file, markdown = folder / "ablation.csv", folder / "ablation.md"
    text = io.StringIO()
    csv.writer(text).writerows(table)
    write_text(csv_file, text.getvalue())
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    lines.insert(1, "|--|--|" + "--:|" * (len(heading) - 2))
    note = f"{scored}; own subnet. gmacs: 10⁹ multiply-adds of a 256 x 256 input, mean over the scale range."
    write_text(markdown, "\n".join([*lines, "", note, ""]))
    return [csv_file, markdown]


def _cells(row: AblationRow, scales: Sequence[str]) -> list[str]:
    psnrs = [f"{value:.3f}" for value in (*(row.psnr_by_scale[scale] for scale in scales), row.psnr, row.best_psnr)]
    return [row.choice, row.value, str(row.trials), *psnrs, f"{row.macs / 1e9:.3f}", f"{row.params:.0f}"]
