"""The search's memory: one file per trial, written before it starts and at each of its scores.

Whatever is killed, the search goes on from these files: finished trials are not run again, unfinished ones
go on from the checkpoints of their training runs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.errors import UserError
from pipeline.run_folder import RunFolder
from pipeline.search.objectives import Objectives

Status = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Report:
    """Scores of a trial at one of its validations.

    Attributes:
        step: training steps done.
        steps: those of the whole trial.
        psnr_by_scale: own subnet, mean over the photos, in dB, by scale as text ("2", "1.5").
    """

    step: int
    steps: int
    psnr_by_scale: dict[str, float]

    @property
    def percent(self) -> int:
        """Share of the trial's compute spent."""
        return round(100 * self.step / self.steps)

    @property
    def psnr(self) -> float:
        """Mean over the scales, in dB."""
        return sum(self.psnr_by_scale.values()) / len(self.psnr_by_scale)


@dataclass
class Trial:
    """One configuration that is tried.

    Attributes:
        number: from 0, in the order of proposal.
        chosen: the values of the choices, by dotted key.
        config: the whole configuration, as plain values.
        macs: see ``anysr.cost.mean_macs``.
        params: weights of the full network.
        reports: the scores so far, by rising steps.
        status: "stopped" early, or "failed" for a ``reason``.
        sampler_notes: what Optuna's sampler keeps with the trial.
        tracked: whether the tracker knows how it ended; False where that was away by then.
    """

    number: int
    chosen: dict[str, Any]
    config: dict[str, Any]
    macs: float
    params: int
    status: Status = "running"
    reports: list[Report] = field(default_factory=list)
    reason: str = ""
    sampler_notes: dict[str, Any] = field(default_factory=dict)
    tracked: bool = True

    @property
    def steps(self) -> int:
        """Training steps of a whole trial."""
        return int(self.config["train"]["steps"])

    @property
    def percent(self) -> int:
        """Share of the trial's compute spent, as far as it is known."""
        return self.reports[-1].percent if self.reports else 0

    @property
    def name(self) -> str:
        """Of its training run."""
        return str(self.config["run"]["name"])

    @property
    def objectives(self) -> Objectives | None:
        """At the last score; None before the first."""
        return Objectives(self.reports[-1].psnr, self.macs) if self.reports else None

    def add(self, report: Report) -> bool:
        """Take a score; False for one that is known already, as after a restart."""
        if self.reports and report.step <= self.reports[-1].step:
            return False
        self.reports.append(report)
        return True


class Ledger:
    """The trials' files in the search's folder."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def read(self) -> list[Trial]:
        """All trials by number.

        Raises:
            UserError: a file that is no trial.
        """
        trials: list[Trial] = []
        while (text := self._folder.read(_file(len(trials)))) is not None:
            trials.append(_parse(text, f"{self._folder.place}/{_file(len(trials))}"))
        return trials

    def write(self, trial: Trial) -> None:
        """Keep a trial as it is now."""
        self._folder.write(_file(trial.number), json.dumps(asdict(trial), indent=1) + "\n")


def _file(number: int) -> str:
    return f"trial-{number:04d}.json"


def _parse(text: str, where: str) -> Trial:
    try:
        values = json.loads(text)
        reports = [Report(**report) for report in values.pop("reports")]
        return Trial(**values, reports=reports)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{where} is damaged ({type(error).__name__}); remove it and all later ones, or choose a new run.name"
        ) from error
