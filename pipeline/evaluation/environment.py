"""Where scores were made: versions, hardware, commit and command, kept beside the rows."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import without_secrets
from pipeline.files import write_text
from pipeline.tracking.versions import git_commit

_PACKAGES = ("anysr", "torch", "numpy", "pillow", "lpips", "ray", "mlflow")
_FILE = "environments.json"


def note_environment(folder: Path, arguments: Sequence[str]) -> None:
    """Add this machine and command to those that a folder's rows came from, once."""
    environments = read_environments(folder)
    now = {"command": without_secrets(" ".join(arguments)), **_describe()}
    if not any({**one, "date": ""} == {**now, "date": ""} for one in environments):
        write_text(folder / _FILE, json.dumps([*environments, now], indent=2) + "\n")


def read_environments(folder: Path) -> list[dict[str, Any]]:
    """The machines and commands that made the rows in a folder, the latest last."""
    try:
        content = json.loads((folder / _FILE).read_text())
    except (OSError, ValueError):
        return []
    return content if isinstance(content, list) else []


def _describe() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": short_commit(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version for name in _PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def short_commit() -> str:
    """As :func:`pipeline.tracking.versions.git_commit`, with 12 of the commit's 40 digits."""
    return re.sub(r"^([0-9a-f]{12})[0-9a-f]{28}", r"\1", git_commit())


def processor() -> str:
    """This machine's processor, as the system names it."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
