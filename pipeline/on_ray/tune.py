"""A search's trials by Ray Tune: each a Ray Train run, driven by a Tune trial that takes no CPU."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Read when Ray Tune is imported: Ctrl-C is ours, and so are the results' files and the progress.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# A trial may end without a score.
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")

import ray
from pyarrow.fs import FileSelector, FileSystem, LocalFileSystem
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pipeline.config_file import parse_config
from pipeline.errors import UserError, one_line
from pipeline.on_ray.connect import init_ray
from pipeline.on_ray.train import check_resources, fit_on_ray, ray_storage, resources_per_worker
from pipeline.search.ledger import Report
from pipeline.search.objectives import Objectives
from pipeline.search.search import NotNowError, Search
from pipeline.tracking.tracker import SinkSpec

# They would miss the files of the callbacks switched off above, and print traces of what is told in a line.
for _logger in ("ray.tune.analysis", "ray.tune.execution.tune_controller"):
    logging.getLogger(_logger).setLevel(logging.CRITICAL)

_RECORD = "tune-"
_LAST_RUNG = 99
_DRIVER_BYTES = 64 * 2**20
_PERCENT, _SCORE, _PSNRS, _ERROR = "percent", "score", "psnr_by_scale", "error"


def search_on_ray(search: Search) -> None:
    """Run the trials on the cluster that RAY_ADDRESS names, or on one started for this process.

    Tune's own record of the experiment is thrown away: what has to outlive this process is in the search's ledger.

    Raises:
        UserError: the cluster has no room for a single trial.
    """
    if not ray.is_initialized():
        init_ray()
    concurrent, (path, filesystem) = _concurrent(search), ray_storage(search.config)
    folder, name = f"{path}/{search.config.run.name}", f"{_RECORD}{secrets.token_hex(4)}"
    _remove_records(folder, filesystem)  # of processes that were killed
    tuner = tune.Tuner(
        # The trial itself only waits: with a CPU of its own it would starve its workers on a small cluster.
        tune.with_resources(_trial, {"memory": _DRIVER_BYTES}),
        tune_config=tune.TuneConfig(
            search_alg=_Proposer(search),
            scheduler=_scheduler(search),
            num_samples=-1,
            max_concurrent_trials=concurrent,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=folder,
            storage_filesystem=filesystem,
            verbose=0,
            callbacks=[_Listener(search)],
        ),
    )
    try:
        with _own_errors():
            tuner.fit()
    finally:
        _remove_records(folder, filesystem)


def _remove_records(folder: str, filesystem: FileSystem | None) -> None:
    """Tune's of this search, on which nobody else works."""
    files = filesystem or LocalFileSystem()
    with suppress(OSError):
        for found in files.get_file_info(FileSelector(folder, allow_not_found=True)):
            if found.base_name.startswith(_RECORD):
                files.delete_dir(found.path)


def _trial(arguments: dict[str, Any]) -> None:
    """Runs in the trial's process; an error is reported, because Tune would print all of its trace."""
    given = json.loads(arguments["assignment"])
    try:
        fit_on_ray(parse_config(given["config"]), SinkSpec(**given["sink"]), [_Scores(**given["trial"])])
    except Exception as error:  # whatever it is, the other trials go on
        tune.report({_ERROR: f"{'' if isinstance(error, UserError) else type(error).__name__ + ': '}{one_line(error)}"})


class _Scores(TuneReportCallback):  # type: ignore[misc]
    """Sends the scores of a trial's validations to Tune."""

    def __init__(self, steps: int, macs: float, db_per_doubling: float) -> None:
        super().__init__()
        self._steps, self._macs, self._db_per_doubling = steps, macs, db_per_doubling

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        by_scale = {f"{score['scale']:g}": score["own"] for score in metrics[0]["scores"]}
        if by_scale:
            report = Report(metrics[0]["step"], self._steps, by_scale)
            values = _ranked(report, self._macs, self._db_per_doubling)
            super().after_report(run_context, [{**values, "step": report.step, _PSNRS: by_scale}], checkpoint)


class _Proposer(Searcher):  # type: ignore[misc]
    """Asks the search for trials; Tune brings them to the cluster."""

    def __init__(self, search: Search) -> None:
        super().__init__(metric=_SCORE, mode="max")
        self._search = search

    def suggest(self, trial_id: str) -> Any:
        try:
            assignment = self._search.next()
        except NotNowError:
            return None  # Tune asks again
        if assignment is None:
            return Searcher.FINISHED
        trial, settings = assignment.trial, self._search.space.settings
        judged = {"steps": trial.steps, "macs": trial.macs, "db_per_doubling": settings.db_per_doubling}
        given = {"config": trial.config, "sink": vars(assignment.sink), "trial": judged}
        # As text, in which Tune does not look for search spaces of its own.
        return {"number": trial.number, "name": trial.name, "assignment": json.dumps(given)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the listener tells the search."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a restart reads the search's ledger."""


class _Listener(tune.Callback):  # type: ignore[misc]
    """Tells the search what becomes of its trials."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._errors: dict[int, str] = {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        number = trial.config["number"]
        if _ERROR in result:
            self._errors[number] = result[_ERROR]
        elif _PSNRS in result:
            self._search.report(number, result["step"], result[_PSNRS])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        number = trial.config["number"]
        self._search.ended(number, self._errors.pop(number, None))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """The trial's process itself died."""
        file = Path(trial.error_file or "")
        lines = file.read_text().strip().splitlines() if file.is_file() else []
        self._search.ended(trial.config["number"], lines[-1] if lines else "its process died")


def _scheduler(search: Search) -> TrialScheduler:
    """ASHA over the share of compute spent, which goes on where an earlier process left it."""
    settings = search.space.settings
    if settings.halving is None or settings.halving.first >= 1:
        return FIFOScheduler()
    # A percentage of its own steps: trials of the same compute differ in steps. The last rung lies before the end,
    # where a trial that is as good as finished would be stopped in the middle of its last checkpoint.
    scheduler = ASHAScheduler(
        time_attr=_PERCENT,
        metric=_SCORE,
        mode="max",
        grace_period=min(_LAST_RUNG, max(1, round(100 * settings.halving.first))),
        reduction_factor=settings.halving.factor,
        max_t=_LAST_RUNG,
        stop_last_trials=False,
    )
    for trial in search.trials.values():
        earlier = SimpleNamespace(trial_id=f"earlier-{trial.number}")
        results = [_ranked(report, trial.macs, settings.db_per_doubling) for report in trial.reports]
        if results:
            scheduler.on_trial_add(None, earlier)
            for result in results:
                scheduler.on_trial_result(None, earlier, result)
            scheduler.on_trial_complete(None, earlier, results[-1])
    return scheduler


def _ranked(report: Report, macs: float, db_per_doubling: float) -> dict[str, float]:
    """What ASHA looks at."""
    return {_PERCENT: report.percent, _SCORE: Objectives(report.psnr, macs).score(db_per_doubling)}


def _concurrent(search: Search) -> int:
    """How many trials' workers fit on the cluster at once; more would wait for each other for ever."""
    config, have = search.config, ray.cluster_resources()
    check_resources(config)
    room = min(
        int(have.get(kind, 0) // (each * config.ray.fewest_workers))
        for kind, each in resources_per_worker(config).items()
    )
    return max(1, min(room, search.space.settings.concurrent or room))


def _trial_name(trial: Any) -> str:
    return str(trial.config["name"])


@contextmanager
def _own_errors() -> Iterator[None]:
    """Tune wraps what our callbacks raise."""
    try:
        yield
    except Exception as error:
        inner: BaseException | None = error
        while inner is not None and not isinstance(inner, UserError):
            inner = inner.__cause__ or inner.__context__
        if inner is not None:
            raise inner from None
        why = f"Ray Tune gave up ({one_line(error)[:500]})"
        raise UserError(f"{why}; go on with the same command and the same run.name") from error
