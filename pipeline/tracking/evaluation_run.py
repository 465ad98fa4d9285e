"""An evaluation in MLflow: one run for the same scores, with means as metrics and the files behind them."""

from __future__ import annotations

import hashlib
import importlib.util
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import UserError, one_line
from pipeline.evaluation.protocols import mean_score
from pipeline.evaluation.rows import Row
from pipeline.evaluation.scales import Scale
from pipeline.evaluation.upscalers import INTERPOLATION
from pipeline.tracking.uri import check_database, local_database, uri_or_default

_EXPERIMENT, _TAG = "anysr-evaluation", "anysr.scores"
_AT_ONCE = 1000  # metrics that MLflow takes in one request
_FILES = ("rows.parquet", "costs.parquet", "pictures.parquet", "environments.json")


def log_evaluation(uri: str | None, rows: Sequence[Row], folder: Path, report: Path | None) -> str:
    """Log means and files; the same scores logged again go to the same run.

    Args:
        uri: MLflow server or database; None is $MLFLOW_TRACKING_URI, else mlflow.db in the working folder.
        rows: the scores.
        folder: where the files of scores are.
        report: the page, if one was written.

    Returns:
        Where they are, for people.

    Raises:
        UserError: MLflow is missing or does not answer.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise UserError("MLflow is not installed: pip install 'anysr[train]', or leave --track out")
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    from pipeline.tracking.mlflow_run import with_password, without_password

    uri = without_password(uri_or_default(uri))
    values = mean_values(rows)
    digest = hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()[:16]
    try:
        check_database(uri)
        client = MlflowClient(with_password(uri))
        database = local_database(uri)
        run_id = _run(client, digest, _title(rows), None if database is None else database.resolve().parent)
        metrics = [Metric(name, value, 0, 0) for name, value in values.items()]
        for first in range(0, len(metrics), _AT_ONCE):
            client.log_batch(run_id, metrics=metrics[first : first + _AT_ONCE])
        files = [folder / name for name in _FILES] + ([report] if report else [])
        for file in files:
            if file.is_file():
                client.log_artifact(run_id, str(file))
        client.set_terminated(run_id)
    except Exception as error:  # MLflow's stores raise kinds of their own
        raise UserError(f"cannot log to MLflow at {uri} ({one_line(error)[:200]}); the rows are in {folder}") from None
    return f"MLflow run {run_id} at {uri}"


def mean_values(rows: Sequence[Row]) -> dict[str, float]:
    """Means by metric names such as ``eval/Set5_x3.4/psnr_y``; ``_full`` and ``_bicubic`` behind other than †.

    Those of which an image's score is missing are left out: they would be of other images.
    """
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    several = len({row.model for row in rows if row.kind != INTERPOLATION}) > 1
    for row in rows:
        groups[row.metric, _name(row, several)].append(np.nan if row.value is None else row.value)
    means = {name: mean_score(metric, values) for (metric, name), values in groups.items()}
    return {name: value for name, value in means.items() if np.isfinite(value)}


def _name(row: Row, several: bool) -> str:
    channel = "" if row.metric == "lpips" else "_rgb" if ": RGB" in row.scoring else "_y"
    subnet = "" if row.subnet == "auto" else f"_{row.subnet}"
    if row.kind == INTERPOLATION:
        subnet = f"_{row.model}"
    elif several:
        subnet = f"_{row.model}{subnet}"
    allowed = "".join(c if c.isalnum() or c in "_-. /" else "-" for c in subnet)
    return f"eval/{row.suite}_x{Scale(row.scale_h, row.scale_w)}/{row.metric}{channel}{allowed}"


def _title(rows: Sequence[Row]) -> str:
    names = dict.fromkeys(row.model for row in rows if row.kind != INTERPOLATION)
    return ", ".join(names) or "bicubic"


def _run(client, digest: str, title: str, beside: Path | None) -> str:  # type: ignore[no-untyped-def]
    experiment = client.get_experiment_by_name(_EXPERIMENT)
    if experiment is None:
        # A local database keeps artifacts beside itself; a server knows its own place for them.
        location = None if beside is None else (beside / "mlartifacts").as_uri()
        experiment = client.get_experiment(client.create_experiment(_EXPERIMENT, artifact_location=location))
    found = client.search_runs([experiment.experiment_id], f"tags.`{_TAG}` = '{digest}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    return str(client.create_run(experiment.experiment_id, run_name=title, tags={_TAG: digest}).info.run_id)
