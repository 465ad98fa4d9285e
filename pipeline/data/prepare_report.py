"""What people see of the data sets: which there are, and how those that are ready are used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.data.datasets import DATASETS, MANGA109, MANGA109_TERMS, Dataset
from pipeline.data.layout import state


def print_datasets(root: Path) -> None:
    """A table of the data sets and what of them is below ``root``."""
    table = Table(title=f"data sets in {root}", title_justify="left")
    for heading in ("name", "images", "archive", "MB", "here", "use", "terms"):
        table.add_column(heading, justify="right" if heading in ("images", "MB") else "left")
    for one in DATASETS.values():
        size = f"{one.archive.num_bytes / 1e6:,.0f}"
        table.add_row(one.name, str(one.count), one.archive.file, size, state(one, root), one.use, one.terms)
    console = Console(width=150)
    console.print(table)
    for official in dict.fromkeys(one.archive.official for one in DATASETS.values()):
        names = [one.name for one in DATASETS.values() if one.archive.official == official]
        _say(console, f"{official}: {', '.join(names)}")
    _say(console, MANGA109_TERMS)


def print_ready(datasets: Sequence[Dataset], root: Path, with_manga109: bool) -> None:
    """Where the data sets are, and the commands that use them."""
    for one in datasets:
        print(f"ready: {one.name}, {_count(one.images_in(root))} images in {one.images_in(root)} ({one.terms})")
    if with_manga109:
        print(f"ready: {MANGA109}, {_count(root / MANGA109 / 'HR')} images in {root / MANGA109 / 'HR'}")
    elif not datasets or any(one.use == "benchmark" for one in datasets):
        print(MANGA109_TERMS)
    names = [one.name for one in datasets]
    if "DIV2K_train" in names:
        where = f"data.train={root}/DIV2K/train/HR"
        where += f" data.validation={root}/DIV2K/valid/HR" if "DIV2K_valid" in names else ""
        print(f"train: python jobs/train.py --local --config jobs/configs/photos.yaml {where}")
    suites = [f"--suite {one.name}={one.images_in(root)}" for one in datasets if one.use == "benchmark"]
    suites += [f"--suite DIV2K={root}/DIV2K/valid/HR"] if "DIV2K_valid" in names else []
    suites += [f"--suite {MANGA109}={root}/{MANGA109}/HR"] if with_manga109 else []
    if suites:
        print(f"score: python jobs/evaluate.py --local --model MODEL {' '.join(suites)}")


def _count(folder: Path) -> int:
    return sum(path.is_file() and path.name != "source.json" for path in folder.rglob("*"))


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
