"""What a registered version carries beside its weights, as tags; the files themselves lie in its run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

COMMIT_TAG, DATA_TAG, VALIDATION_DATA_TAG = "anysr.git_commit", "anysr.data", "anysr.validation_data"
CONFIG_TAG, REPORT_TAG, SCORES_TAG, PROTOCOL_TAG = "anysr.config", "anysr.report", "anysr.scores", "anysr.protocol"
COMMIT_VARIABLE = "ANYSR_GIT_COMMIT"
"""Tells a job, whose copy of the code has no history, the commit it was made of."""

_ROOT = Path(__file__).resolve().parents[2]


@cache
def git_commit() -> str:
    """The commit of this code, with ``-dirty`` behind it if files have changed since; ``unknown`` outside of git."""
    if given := os.environ.get(COMMIT_VARIABLE):
        return given
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return "unknown"
    return commit + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")


@dataclass(frozen=True)
class VersionFacts:
    """What is recorded of a version.

    Attributes:
        data: fingerprint of the photos it was trained on, see ``PhotoMap``.
        validation_data: of those it was validated on.
        config: name of its configuration among its run's artifacts.
        report: name of its scores there.
        psnr: at the last validation, own subnet, in dB, by scale.
        protocol: how that was made.
    """

    data: str
    validation_data: str
    config: str
    report: str
    psnr: Mapping[float, float]
    protocol: str

    def tags(self, run_id: str) -> dict[str, str]:
        """As tags of the version that a run made."""
        return {
            COMMIT_TAG: git_commit(),
            DATA_TAG: self.data,
            VALIDATION_DATA_TAG: self.validation_data,
            CONFIG_TAG: f"runs:/{run_id}/{self.config}",
            REPORT_TAG: f"runs:/{run_id}/{self.report}",
            SCORES_TAG: ", ".join(f"x{scale:g} {psnr:.2f}" for scale, psnr in self.psnr.items()),
            PROTOCOL_TAG: self.protocol,
        }


def _git(*arguments: str) -> str | None:
    # Of this very folder, and not of a repository that it happens to lie in.
    if not (_ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
