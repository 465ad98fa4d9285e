"""Checkpoint folders that appear complete or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import UserError, one_line

# Where --local keeps its checkpoints in a run's folder, and the file by which Ray Train finds its own.
CHECKPOINTS, RAY_SNAPSHOT = "checkpoints", "checkpoint_manager_snapshot.json"


def write_checkpoint(target: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder through ``write`` and move it into place; nothing already saved is touched.

    Raises:
        UserError: the place cannot be written or is full.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    # torch reports a full disk as a RuntimeError, safetensors as an error of its own.
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"cannot save the checkpoint {target} ({one_line(error)[:200]}); earlier checkpoints are kept: free some "
            "space or choose another run.storage, and submit the run again under the same name"
        ) from error


def remove_old(folder: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints of a folder."""
    for old in sorted(folder.glob("step_*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
