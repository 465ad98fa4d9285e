"""How much each choice matters for PSNR and for multiply-adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, create_trial

from pipeline.search.ledger import Trial
from pipeline.search.space import Space

METHOD = "fANOVA (Hutter et al., 2014): share of the variance that a choice explains"
_FEWEST = 4


def importances(space: Space, trials: Sequence[Trial]) -> dict[str, tuple[float, float]]:
    """Share of the variance of PSNR and of multiply-adds that each choice explains, the first ones first.

    Over finished trials that took every choice; empty with fewer than four of them, or where nothing varies.
    """
    study = optuna.create_study(directions=["maximize", "minimize"])
    distributions = {key: variable.distribution for key, variable in space.variables.items()}
    for trial in trials:
        if trial.status == "finished" and trial.objectives is not None and trial.chosen.keys() == distributions.keys():
            params = {key: variable.encoded(trial.chosen[key]) for key, variable in space.variables.items()}
            values = [trial.objectives.psnr, trial.objectives.macs]
            study.add_trial(create_trial(values=values, params=params, distributions=distributions))
    if len(study.trials) < _FEWEST:
        return {}
    psnr, macs = (_of(study, lambda trial, i=i: trial.values[i]) for i in (0, 1))  # type: ignore[misc]
    return {
        key: (psnr.get(key, 0.0), macs.get(key, 0.0)) for key in sorted(space.variables, key=lambda k: -psnr.get(k, 0))
    }


def _of(study: optuna.Study, target: Callable[[FrozenTrial], float]) -> dict[str, float]:
    values = {target(trial) for trial in study.trials}
    if len(values) < 2:
        return {}
    return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), target=target))
