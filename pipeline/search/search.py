"""A search as its driver sees it: proposes trials, takes their scores, keeps the ledger, tells the user."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import anysr
from anysr.cost import mean_macs
from pipeline.config import TrainingConfig
from pipeline.errors import UserError
from pipeline.run_folder import RunFolder
from pipeline.search.ledger import Ledger, Report, Status, Trial
from pipeline.search.objectives import step_macs, steps_for
from pipeline.search.proposals import ListedProposals, open_proposals
from pipeline.search.space import Space
from pipeline.tracking.tracker import SinkSpec, Tracker

OpenTracker = Callable[[TrainingConfig], Tracker]


@dataclass(frozen=True)
class Assignment:
    """A trial for whoever runs it: train ``config``, send metrics to ``sink``."""

    trial: Trial
    config: TrainingConfig
    sink: SinkSpec


class Search:
    """One search; knows nothing of where its trials run.

    Attributes:
        space: what is searched.
        config: the base configuration, with the search's own name and storage.
        trials: those so far, by number.
        total: how many there will be.
    """

    def __init__(self, space: Space, config: TrainingConfig, folder: RunFolder, open_trial: OpenTracker) -> None:
        self.space, self.config, self.folder = space, config, folder
        self._ledger = Ledger(folder)
        self._open_trial = open_trial
        self._proposals = open_proposals(space)
        self.trials = {trial.number: trial for trial in self._ledger.read()}
        for trial in self.trials.values():
            if trial.status == "failed":  # the mend may have come since
                trial.status = "running"
            self._proposals.add(trial)
        listed = self._proposals.listed if isinstance(self._proposals, ListedProposals) else None
        self.total = space.settings.trials if listed is None else min(space.settings.trials, len(listed))
        self._budget = step_macs(config) * config.train.steps
        self._waiting = [trial for trial in self.trials.values() if trial.status == "running"]
        self._trackers: dict[int, Tracker] = {}
        self._pace = _Pace(self)

    @property
    def is_complete(self) -> bool:
        """Whether all trials have ended."""
        return len(self.trials) >= self.total and all(t.status != "running" for t in self.trials.values())

    def next(self) -> Assignment | None:
        """The next trial to run: one that was cut short, else a new one; None when there are no more."""
        if self._waiting:
            trial = self._waiting.pop(0)
            say = "goes on"
        elif len(self.trials) >= self.total:
            return None
        else:
            proposal = self._proposals.next(len(self.trials))
            assert proposal is not None
            trial = self._new_trial(proposal.chosen, proposal.notes)
            say = "starts"
        config = trial.training_config()
        tracker = self._trackers[trial.number] = self._open_trial(config)
        self._say(trial, f"{say}: {words(trial.chosen)}; {trial.macs / 1e9:.2f} G multiply-adds, {trial.steps} steps")
        return Assignment(trial, config, tracker.sink)

    def report(self, number: int, step: int, psnr_by_scale: dict[str, float]) -> None:
        """Take a trial's scores."""
        trial = self.trials[number]
        if not trial.add(Report(step, trial.steps, psnr_by_scale)):
            return
        self._ledger.write(trial)
        self._say(trial, f"step {step}/{trial.steps}  {trial.reports[-1].psnr:.2f} dB{self._counts()}")

    def ended(self, number: int, error: str | None = None) -> None:
        """Learn that a trial has ended: by an error, early, or with its last step."""
        trial = self.trials[number]
        status: Status = "failed" if error is not None else "finished" if trial.percent >= 100 else "stopped"
        trial.status, trial.reason = status, (error or "")[:1000]
        # The ledger comes last: what it calls ended, nobody looks at again.
        self._trackers.pop(number).end({"finished": "FINISHED", "stopped": "KILLED"}.get(status, "FAILED"))
        self._ledger.write(trial)
        self._proposals.tell(trial)
        self._say(trial, f"{status}{f' ({error})' if error else f' at {trial.percent} %'}{self._counts()}")

    def interrupted(self) -> None:
        """Close what trials still have open."""
        for tracker in self._trackers.values():
            tracker.end("KILLED")
        self._trackers.clear()

    def _new_trial(self, chosen: dict[str, Any], notes: dict[str, Any]) -> Trial:
        number = len(self.trials)
        config = self._placed(self.space.config(chosen), number)
        with torch.device("meta"):
            model = anysr.build(config.model)
        params = sum(p.numel() for p in model.parameters())
        trial = Trial(number, chosen, config.to_dict(), mean_macs(model), params, sampler_notes=notes)
        self._ledger.write(trial)
        self.trials[number] = trial
        return trial

    def _placed(self, config: TrainingConfig, number: int) -> TrainingConfig:
        """A trial's configuration with its own name, steps and times of scoring."""
        steps = steps_for(config, self._budget)
        every = math.ceil(steps / self.space.settings.reports)
        run = self.config.run
        return config.model_copy(
            update={
                "run": run.model_copy(
                    update={"name": f"{run.name}-{number:03d}", "storage": f"{run.storage}/{run.name}/trials"}
                ),
                "data": config.data.resolved(),
                "train": config.train.resolved().model_copy(update={"steps": steps, "checkpoint_every": every}),
                "validation": config.validation.model_copy(update={"every": every}),
            }
        )

    def _counts(self) -> str:
        counts = Counter(trial.status for trial in self.trials.values())
        shown = ", ".join(f"{counts[s]} {s}" for s in ("finished", "stopped", "failed", "running") if counts[s])
        return f"  |  {shown} of {self.total}  {self._pace.eta()}"

    def _say(self, trial: Trial, text: str) -> None:
        print(f"trial {trial.number}: {text}", flush=True)


class _Pace:
    """Time left, from the compute spent since this process started."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._started = time.monotonic()
        self._before = self._spent()

    def _spent(self) -> int:
        return sum(
            100 if t.status in ("finished", "stopped", "failed") else t.percent for t in self._search.trials.values()
        )

    def eta(self) -> str:
        spent = self._spent()
        if spent <= self._before:
            return "ETA …"
        per_percent = (time.monotonic() - self._started) / (spent - self._before)
        minutes, seconds = divmod(round((100 * self._search.total - spent) * per_percent), 60)
        return f"ETA {minutes}:{seconds:02d}"


def words(chosen: dict[str, Any]) -> str:
    """Choices for people, without the section they lie in where the last word says enough."""
    parts = [f"{key.rpartition('.')[2]}={'none' if value is None else value}" for key, value in chosen.items()]
    return ", ".join(parts) or "the base configuration"


def best_trial(trials: list[Trial], db_per_doubling: float) -> Trial:
    """The finished trial of the highest score.

    Raises:
        UserError: none has finished.
    """
    scored = [(t.objectives.score(db_per_doubling), t) for t in trials if t.status == "finished" and t.objectives]
    if not scored:
        raise UserError("no trial has finished; see above why, and go on with the same command")
    return max(scored, key=lambda pair: pair[0])[1]
