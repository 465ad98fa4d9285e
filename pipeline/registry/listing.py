"""The registry as people read it."""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table

from pipeline.errors import UserError
from pipeline.registry.promotion import history
from pipeline.registry.versions import Registry
from pipeline.tracking.versions import COMMIT_TAG, DATA_TAG, SCORES_TAG

_NONE = "–"


def print_versions(registry: Registry) -> None:
    """One line per version, the oldest first; then the champion's history.

    Raises:
        UserError: the model has no version.
    """
    versions = registry.versions()
    if not versions:
        raise UserError(
            f"the model {registry.name} at {registry.uri} has no version; train one, or give another --name"
        )
    table = Table(title=f"{registry.name} at {registry.uri}")
    for heading in ("version", "aliases", "registered", "commit", "data", "scores", "run"):
        table.add_column(heading, justify="right" if heading == "version" else "left")
    for version in versions:
        tags = version.tags
        table.add_row(
            str(version.number),
            ", ".join(version.aliases) or _NONE,
            _time(version.created_ms / 1000),
            tags.get(COMMIT_TAG, _NONE)[:12],
            tags.get(DATA_TAG, _NONE)[:12],
            tags.get(SCORES_TAG, _NONE),
            (version.run_id or _NONE)[:12],
        )
    console = Console(width=140)
    console.print(table)
    for change in history(registry):
        console.print(f"{_time(change.at)}  {change.by}: {change.action} version {change.version}", highlight=False)


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
