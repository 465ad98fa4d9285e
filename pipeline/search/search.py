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
from pipeline.config import OF_THE_NODE, TrainingConfig
from pipeline.config_file import parse_config
from pipeline.errors import UserError
from pipeline.run_folder import RunFolder
from pipeline.search.ledger import Ledger, Report, Status, Trial
from pipeline.search.objectives import step_macs, steps_for
from pipeline.search.proposals import ListedProposals, open_proposals
from pipeline.search.space import Space
from pipeline.tracking.tracker import SinkSpec, Tracker

OpenTracker = Callable[[TrainingConfig], Tracker]

_PATIENCE_S, _FIRST_PAUSE_S, _LONGEST_PAUSE_S = 300.0, 2.0, 60.0
_ENDS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class NotNowError(Exception):
    """The tracker is away, so no trial can start at the moment: ask again."""


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
        self._earlier = len(self.trials)
        self._trackers: dict[int, Tracker] = {}
        self._untracked = [t for t in self.trials.values() if t.status != "running" and not t.tracked]
        self._opening, self._ending = _Pauses(), _Pauses()
        self._pace = _Pace(self)

    @property
    def is_complete(self) -> bool:
        """Whether all trials have ended."""
        return len(self.trials) >= self.total and all(t.status != "running" for t in self.trials.values())

    def next(self) -> Assignment | None:
        """The next trial to run: one that was cut short, else a new one; None when there are no more.

        Raises:
            NotNowError: the tracker is away; ask again.
            UserError: it has been away for some minutes.
        """
        self._track_ends()
        if not self._waiting:
            if len(self.trials) >= self.total:
                return None
            proposal = self._proposals.next(len(self.trials))
            assert proposal is not None
            self._waiting.append(self._new_trial(proposal.chosen, proposal.notes))
        trial = self._waiting[0]
        config = self._here(trial)
        tracker = self._trackers[trial.number] = self._patiently_opened(config)
        trial.config = config.to_dict()
        self._waiting.pop(0)
        say = "goes on" if trial.number < self._earlier else "starts"
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
        # The ledger comes last: what it calls ended and tracked, nobody looks at again.
        trial.tracked = self._track_end(trial)
        self._ledger.write(trial)
        self._proposals.tell(trial)
        self._say(trial, f"{status}{f' ({error})' if error else f' at {trial.percent} %'}{self._counts()}")

    def interrupted(self) -> None:
        """Close what trials still have open."""
        self._ending.end()
        self._track_ends()
        if self._untracked:
            print(f"{len(self._untracked)} ended trials still look like running in MLflow; the same command mends that")
        for number, tracker in self._trackers.items():
            if self.trials[number].status == "running":
                tracker.end("KILLED")
        self._trackers.clear()

    def _patiently_opened(self, config: TrainingConfig) -> Tracker:
        if self._opening.is_on:
            raise NotNowError
        try:
            tracker = self._open_trial(config)
        except UserError as error:
            failing_s = self._opening.lengthen()
            if failing_s > _PATIENCE_S:
                raise
            if not failing_s:
                print(f"no trial can start now; trying again for {_PATIENCE_S:g} s: {error}", flush=True)
            raise NotNowError from None
        self._opening.end()
        return tracker

    def _track_end(self, trial: Trial) -> bool:
        """Tell the tracker how a trial ended; one that is away is told again, if need be by the next process."""
        try:
            tracker = self._trackers.get(trial.number) or self._open_trial(self._here(trial))
        except UserError:
            tracker = None
        if tracker is not None and tracker.end(_ENDS[trial.status]):
            self._trackers.pop(trial.number, None)
            return True
        if trial not in self._untracked:
            self._untracked.append(trial)
        self._ending.lengthen()
        return False

    def _track_ends(self) -> None:
        while self._untracked and not self._ending.is_on and self._track_end(self._untracked[0]):
            trial = self._untracked.pop(0)
            trial.tracked = True
            self._ledger.write(trial)
            self._ending.end()

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
        name = f"{self.config.run.name}-{number:03d}"
        return config.model_copy(
            update={
                "run": self.config.run.model_copy(update={"name": name, "storage": self._storage}),
                "data": config.data.resolved(),
                "train": config.train.resolved().model_copy(update={"steps": steps, "checkpoint_every": every}),
                "validation": config.validation.model_copy(update={"every": every}),
            }
        )

    @property
    def _storage(self) -> str:
        return f"{self.config.run.storage}/{self.config.run.name}/trials"

    def _here(self, trial: Trial) -> TrainingConfig:
        """A trial's configuration with this command's storage, cluster, tracker and caches, which may have moved."""
        here = self.config.to_dict()
        mine = {name: here["data"][name] for name in OF_THE_NODE if f"data.{name}" not in self.space.variables}
        run = {**here["run"], "name": trial.name, "storage": self._storage}
        moved = {"run": run, "ray": here["ray"], "tracking": here["tracking"], "data": {**trial.config["data"], **mine}}
        return parse_config({**trial.config, **moved})

    def _counts(self) -> str:
        counts = Counter(trial.status for trial in self.trials.values())
        shown = ", ".join(f"{counts[s]} {s}" for s in ("finished", "stopped", "failed", "running") if counts[s])
        return f"  |  {shown} of {self.total}  {self._pace.eta()}"

    def _say(self, trial: Trial, text: str) -> None:
        print(f"trial {trial.number}: {text}", flush=True)


class _Pauses:
    """Growing pauses between the tries of something that fails for a while."""

    def __init__(self) -> None:
        self._since, self._until, self._pause_s = 0.0, 0.0, _FIRST_PAUSE_S

    @property
    def is_on(self) -> bool:
        return time.monotonic() < self._until

    def lengthen(self) -> float:
        """Begin the next pause; answers for how many seconds it has been failing."""
        now = time.monotonic()
        self._since = self._since or now
        self._until = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return now - self._since

    def end(self) -> None:
        """It has succeeded."""
        self._since, self._until, self._pause_s = 0.0, 0.0, _FIRST_PAUSE_S


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
