"""One MLflow run per training run: created or found again by the driver, fed by worker 0."""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# A dead server must cost seconds, not minutes; nothing is to call home.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric as MlflowMetric
from mlflow.entities import Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipeline.config import TrainingConfig
from pipeline.errors import UserError, one_line, without_secrets
from pipeline.storage.places import parse_place
from pipeline.tracking.metric_log import Metric, MetricLog
from pipeline.tracking.system_metrics import recorded_load
from pipeline.tracking.tracker import SinkSpec
from pipeline.tracking.uri import check_database, is_database_server, local_database, stripped, uri_or_default
from pipeline.tracking.versions import VersionFacts

logging.getLogger("mlflow").setLevel(logging.WARNING)

_NAME_TAG, _STORAGE_TAG = "anysr.run", "anysr.storage"
_MAX_PARAM_LENGTH = 500


class MlflowSink:
    """Writes metrics into an MLflow run."""

    def __init__(self, uri: str, run_id: str) -> None:
        without_password(os.environ.get("MLFLOW_TRACKING_URI", ""))
        self._client = MlflowClient(with_password(uri))
        self._run_id = run_id

    def last_steps(self) -> dict[str, int]:
        names = self._client.get_run(self._run_id).data.metrics
        histories = {name: self._client.get_metric_history(self._run_id, name) for name in names}
        return {name: max(metric.step for metric in history) for name, history in histories.items()}

    def write(self, metrics: list[Metric]) -> None:
        rows = [MlflowMetric(m.name, m.value, m.timestamp_ms, m.step) for m in metrics]
        self._client.log_batch(self._run_id, metrics=rows)


class MlflowRun:
    """The driver's hold on the run."""

    def __init__(self, uri: str, config: TrainingConfig, parent: str | None = None, anew: bool = False) -> None:
        """Find the run of this name and storage, or create it; ``anew`` creates it in any case.

        Raises:
            UserError: the server does not answer.
        """
        self.uri = uri = without_password(uri)
        self._config, self._parent = config, parent
        try:
            check_database(uri)
            mlflow.set_tracking_uri(with_password(uri))
            self._client = MlflowClient(with_password(uri))
            self.run_id = self._find_or_create(anew)
            self._client.update_run(self.run_id, "RUNNING")
        except Exception as error:  # MLflow's stores raise kinds of their own
            fault = "does not answer" if uri.startswith("http") else "cannot be used"
            raise UserError(
                f"MLflow at {without_secrets(uri)} {fault} ({one_line(error)[:200]}); start the server, correct "
                "tracking.uri / MLFLOW_TRACKING_URI, or set tracking.backend=jsonl"
            ) from None
        self.sink = SinkSpec(uri, self.run_id)

    def _find_or_create(self, anew: bool) -> str:
        experiment = self._experiment()
        name = str(self._config.run.name)
        storage = hashlib.sha256(self._config.run.storage.encode()).hexdigest()[:16]  # a path may hold quotes
        tags = {_NAME_TAG: name, _STORAGE_TAG: storage}
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self._client.search_runs([experiment], wanted, max_results=1)
        if found and not anew:
            return str(found[0].info.run_id)
        for earlier in found:
            self._client.delete_tag(earlier.info.run_id, _NAME_TAG)  # stays, but is not found again
        nested = {} if self._parent is None else {MLFLOW_PARENT_RUN_ID: self._parent}
        run = self._client.create_run(experiment, run_name=name, tags={**tags, **nested})
        run_id = str(run.info.run_id)
        params = [Param(key, value[:_MAX_PARAM_LENGTH]) for key, value in _flatten(self._config.to_dict())]
        self._client.log_batch(run_id, params=params, tags=[RunTag("mlflow.note.content", _note(self._config))])
        self._client.log_text(run_id, self._config.to_yaml(), "config.yaml")
        return run_id

    def _experiment(self) -> str:
        name = self._config.tracking.experiment
        existing = self._client.get_experiment_by_name(name)
        if existing is not None:
            return str(existing.experiment_id)
        location = self._artifact_location()
        try:
            return str(self._client.create_experiment(name, artifact_location=location))
        except MlflowException:
            raced = self._client.get_experiment_by_name(name)
            if raced is None:
                raise
            return str(raced.experiment_id)

    def _artifact_location(self) -> str | None:
        """Beside a local database; where the runs are, of one elsewhere; an MLflow server knows its own."""
        database, storage = local_database(self.uri), parse_place(self._config.run.storage)
        if database is not None:
            return (database.parent / "mlartifacts").as_uri()
        if not is_database_server(self.uri):
            return None
        place = storage / "mlartifacts"
        return place.resolve().as_uri() if isinstance(place, Path) else str(place)

    def describe(self) -> str:
        show = "" if local_database(self.uri) is None else f"; to look: mlflow ui --backend-store-uri {self.uri}"
        return without_secrets(f"MLflow run {self.run_id} at {self.uri}{show}")

    def publish(self, model_file: Path, checkpoint: Path, files: list[Path], about: VersionFacts) -> str:
        from pipeline.tracking.mlflow_model import register

        self._client.log_artifacts(self.run_id, str(checkpoint), "checkpoint")
        self.attach(files)
        name = self._config.tracking.registered_model
        version = register(model_file, self._config.factor, self.uri, self.run_id, name, about.tags(self.run_id))
        return f"models:/{name}/{version}, alias models:/{name}@latest"

    def attach(self, files: list[Path]) -> None:
        try:
            for file in files:
                self._client.log_artifact(self.run_id, str(file))
        except Exception as error:  # MLflow's stores raise kinds of their own
            raise UserError(
                f"MLflow does not take the files of run {self.run_id} ({one_line(error)[:200]}); start the server, and "
                "give the same command with the same run.name: nothing is run twice"
            ) from None

    def end(self, status: str) -> bool:
        try:
            self._client.set_terminated(self.run_id, status)
        except Exception as error:  # MLflow's stores raise kinds of their own
            print(f"warning: could not mark the MLflow run as {status}: {one_line(error)[:200]}", flush=True)
            return False
        return True

    def system_metrics(self) -> AbstractContextManager[None]:
        started_ms = int(self._client.get_run(self.run_id).info.start_time)
        return recorded_load(MetricLog(self.sink.open()), started_ms)


def tracking_uri(config: TrainingConfig, in_ray_job: bool) -> str:
    """The server or database that the configuration and the environment name."""
    named = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    storage = parse_place(config.run.storage)
    if in_ray_job and not named and not isinstance(storage, Path):
        raise UserError(
            f"no MLflow server is named, and {storage} cannot hold its database; set MLFLOW_TRACKING_URI or "
            "tracking.uri, or tracking.backend=jsonl"
        )
    folder = storage if in_ray_job and isinstance(storage, Path) else Path()
    return without_password(uri_or_default(named, folder))


def without_password(uri: str) -> str:
    """The URI of a server or database; a password in it moves to this process's environment.

    What stays is written down in many places; each process finds the password in its own environment: MLflow's client
    that of a server, :func:`with_password` that of a database.
    """
    public = stripped(uri)
    if public == uri:
        return uri
    parts = urlsplit(uri)
    if parts.scheme.startswith("http"):
        os.environ.setdefault("MLFLOW_TRACKING_USERNAME", unquote(parts.username or ""))
        os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", unquote(parts.password or ""))
    else:
        os.environ["MLFLOW_TRACKING_URI"] = uri
    return public


def with_password(uri: str) -> str:
    """What to connect to: the URI of a database with the password that this environment's MLFLOW_TRACKING_URI has."""
    named = os.environ.get("MLFLOW_TRACKING_URI", "")
    return named if not uri.startswith("http") and stripped(named) == uri else uri


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += _flatten(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", str(value)))
    return rows


def _note(config: TrainingConfig) -> str:
    groups = ", ".join(f"×{low:g}–{high:g}" for low, high in (group.scales for group in config.model.subnets))
    return f"{config.model.encoder.kind} + {config.model.decoder.kind}, scale groups {groups}"
