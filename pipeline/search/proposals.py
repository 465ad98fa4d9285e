"""Which configuration to try next: Optuna's samplers, a grid, or one change of the base configuration at a time."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from pipeline.errors import UserError
from pipeline.search.ledger import Trial
from pipeline.search.space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)

_STATES = {
    "running": TrialState.RUNNING,
    "finished": TrialState.COMPLETE,
    # Scores of other amounts of training are not comparable: a stopped trial only tells that it was among the worse,
    # and so does one that failed, mostly because its loss was no number any more. Optuna forgets those that FAIL.
    "stopped": TrialState.PRUNED,
    "failed": TrialState.PRUNED,
}
_TRIES = 100


@dataclass(frozen=True)
class Proposal:
    """What a sampler proposes.

    Attributes:
        chosen: the values of the choices, by dotted key.
        notes: what Optuna's sampler keeps with the trial.
    """

    chosen: dict[str, Any]
    notes: dict[str, Any] = field(default_factory=dict)


class OptunaProposals:
    """Proposals of one of Optuna's samplers, from the trials so far.

    What it proposes depends on the space, the seed and these trials alone, so that a search goes on after a kill as
    if nothing had happened.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._distributions = {key: variable.distribution for key, variable in space.variables.items()}
        self._study = optuna.create_study(directions=["maximize", "minimize"], sampler=RandomSampler())
        self._numbers: dict[int, int] = {}

    def add(self, trial: Trial) -> None:
        """Take over a trial of an earlier process."""
        state = _STATES[trial.status]
        self._numbers[trial.number] = len(self._study.get_trials(deepcopy=False))
        self._study.add_trial(
            create_trial(
                state=state,
                values=_values(trial) if state == TrialState.COMPLETE else None,
                params=self._encoded(trial),
                distributions=self._distributions,
                system_attrs=trial.sampler_notes,
            )
        )

    def next(self, number: int) -> Proposal | None:
        """The proposal for a trial of this number."""
        for _ in range(_TRIES):
            asked = len(self._study.get_trials(deepcopy=False))
            self._study.sampler = _sampler(self._space, self._space.settings.seed + asked)
            trial = self._study.ask(self._distributions)
            chosen = {key: variable.decoded(trial.params[key]) for key, variable in self._space.variables.items()}
            try:
                self._space.config(chosen)
            except (UserError, ValueError):
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            self._numbers[number] = trial.number
            notes = self._study.get_trials(deepcopy=False)[trial.number].system_attrs
            return Proposal(chosen, dict(notes))
        raise UserError(
            f"{_TRIES} configurations in a row were invalid; narrow the space, of which only corners are valid"
        )

    def _encoded(self, trial: Trial) -> dict[str, Any]:
        return {key: variable.encoded(trial.chosen[key]) for key, variable in self._space.variables.items()}

    def tell(self, trial: Trial) -> None:
        """Learn how a trial ended."""
        state = _STATES[trial.status]
        values = _values(trial) if state == TrialState.COMPLETE else None
        self._study.tell(self._numbers[trial.number], values, state)


class ListedProposals:
    """Proposals that are known beforehand."""

    def __init__(self, listed: Sequence[dict[str, Any]]) -> None:
        self.listed = listed

    def add(self, trial: Trial) -> None:
        """See :class:`OptunaProposals`."""

    def next(self, number: int) -> Proposal | None:
        """See :class:`OptunaProposals`; None after the last."""
        return Proposal(self.listed[number]) if number < len(self.listed) else None

    def tell(self, trial: Trial) -> None:
        """See :class:`OptunaProposals`."""


Proposals = OptunaProposals | ListedProposals


def open_proposals(space: Space) -> Proposals:
    """The proposals that ``search.sampler`` names."""
    sampler = space.settings.sampler
    if sampler == "grid":
        return ListedProposals(list(_grid(space)))
    if sampler == "one_at_a_time":
        return ListedProposals(list(_one_at_a_time(space)))
    return OptunaProposals(space)


def _grid(space: Space) -> Iterator[dict[str, Any]]:
    yield from (dict(zip(space.variables, values, strict=True)) for values in itertools.product(*space.grid().values()))


def _one_at_a_time(space: Space) -> Iterator[dict[str, Any]]:
    """The base configuration, then every change of one choice; a change to what it has already is none."""
    base = space.reference()
    yield {}
    for key, values in space.grid().items():
        yield from ({key: value} for value in values if space.config({key: value}) != base)


def _sampler(space: Space, seed: int) -> BaseSampler:
    few = max(4, space.settings.trials // 4)
    if space.settings.sampler == "nsga2":
        return NSGAIISampler(population_size=min(50, few), seed=seed)
    if space.settings.sampler == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # The liar keeps trials that run side by side from being the same.
        return TPESampler(n_startup_trials=min(10, few), constant_liar=True, seed=seed)


def _values(trial: Trial) -> list[float]:
    assert trial.objectives is not None
    return [trial.objectives.psnr, trial.objectives.macs]
