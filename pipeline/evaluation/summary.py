"""Rows averaged over the images of a suite, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pipeline.evaluation.protocols import is_exact, mean_score
from pipeline.evaluation.rows import OK, Row

_FORMATS = {"psnr": "{:.2f}", "ssim": "{:.4f}", "lpips": "{:.4f}"}


def print_summary(rows: Sequence[Row], console: Console | None = None) -> None:
    """One line per suite, scale and subnet, and under the table how it was scored and what failed."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    table = Table()
    for heading in ("suite", "scale", "model", "subnet", "images", *metrics):
        table.add_column(heading, justify="left" if heading in ("suite", "model") else "right")
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.suite, _scale(row), row.model, row.subnet), []).append(row)
    for names, group in groups.items():
        scored = [row for row in group if row.status == OK]
        images = len({row.image for row in group})
        complete = images - len({row.image for row in group if row.status != OK})
        count = f"{images}" if complete == images else f"{complete} of {images}"
        table.add_row(*names, count, *(_mean(scored, metric) for metric in metrics))
    console = console or Console(width=100)
    console.print(table)
    for remark in _remarks(rows):
        console.print(remark, markup=False, highlight=False, soft_wrap=True)


def _mean(rows: Sequence[Row], metric: str) -> str:
    values = [row.value for row in rows if row.metric == metric and row.value is not None]
    if not values:
        return "–"
    mean = mean_score(metric, values)
    return "exact" if is_exact(metric, mean) else _FORMATS[metric].format(mean)


def _remarks(rows: Sequence[Row]) -> list[str]:
    remarks = list(dict.fromkeys(f"{row.model}, LR {row.lr}; {row.scoring}" for row in rows))
    failed = list(dict.fromkeys(f"failed: {row.suite} {row.image}: {row.status}" for row in rows if row.status != OK))
    more = [f"… and {len(failed) - 5} more; all are in the rows"] if len(failed) > 5 else []
    return remarks + failed[:5] + more


def _scale(row: Row) -> str:
    return f"×{row.scale_h:g}" if row.scale_h == row.scale_w else f"×{row.scale_h:g}x{row.scale_w:g}"
