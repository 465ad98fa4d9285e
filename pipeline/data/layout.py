"""Where data sets lie below one root, each folder with a ``source.json`` that says what it was made of.

A folder appears complete or not at all; one that this did not make is never touched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.data.datasets import Dataset
from pipeline.data.download import bytes_so_far
from pipeline.errors import UserError
from pipeline.files import write_text

_SOURCE, _DOWNLOADS = "source.json", "downloads"


def archive_file(root: Path, dataset: Dataset) -> Path:
    """Where the archive of a data set is fetched to, or may be put by hand."""
    return root / _DOWNLOADS / dataset.archive.file


def is_ready(dataset: Dataset, root: Path) -> bool:
    """Whether all its files are there, in their sizes."""
    source = _source(root / dataset.folder)
    return source is not None and [source.get("files"), source.get("unpacked_bytes")] == contents(root / dataset.folder)


def state(dataset: Dataset, root: Path) -> str:
    """In words: ready, how much is fetched, or nothing."""
    if is_ready(dataset, root):
        return "ready"
    come = bytes_so_far(archive_file(root, dataset))
    return f"{come / dataset.archive.num_bytes:.0%} fetched" if come else "–"


def check_ours(folder: Path) -> None:
    """Refuse to replace a folder that was not made here.

    Raises:
        UserError: it is the user's.
    """
    nothing = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not nothing and _source(folder) is None:
        raise UserError(f"{folder} exists, but was not made by this command; move it away, or choose another --root")


def empty_folder(root: Path, name: str) -> Path:
    """A new folder to fill, on the same disk; what an earlier process left of it is removed."""
    folder = root / _DOWNLOADS / f"{name}.unpacked"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}); choose another --root") from error
    return folder


def put(filled: Path, folder: Path, source: Mapping[str, Any]) -> None:
    """Move a filled folder into place, with its source; an older one of ours makes room."""
    files, num_bytes = contents(filled)
    record = {**source, "files": files, "unpacked_bytes": num_bytes}
    write_text(filled / _SOURCE, json.dumps(record, indent=2) + "\n")
    folder.parent.mkdir(parents=True, exist_ok=True)
    old = filled.with_name(f"{filled.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    filled.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def contents(folder: Path) -> list[int]:
    """Number of files below a folder and their bytes, its source left out."""
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / _SOURCE]
    return [len(files), sum(path.stat().st_size for path in files)]


def _source(folder: Path) -> dict[str, Any] | None:
    try:
        source = json.loads((folder / _SOURCE).read_text())
    except (OSError, ValueError):
        return None
    return source if isinstance(source, dict) else None
