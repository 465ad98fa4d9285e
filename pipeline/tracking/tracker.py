"""The one door to tracking: MLflow, or a plain file where MLflow is not wanted."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.config import TrainingConfig
from pipeline.errors import UserError
from pipeline.storage.places import Place
from pipeline.storage.transfer import remove
from pipeline.tracking.metric_log import Sink, open_file_sink
from pipeline.tracking.versions import VersionFacts


@dataclass(frozen=True)
class SinkSpec:
    """How a worker on any node reaches the metrics' sink.

    Attributes:
        target: MLflow tracking URI, without a password, or a file's path.
        run_id: the MLflow run; None for a file.
    """

    target: str
    run_id: str | None

    def open(self) -> Sink:
        """Connect."""
        if self.run_id is None:
            return open_file_sink(self.target)
        from pipeline.tracking.mlflow_run import MlflowSink

        return MlflowSink(self.target, self.run_id)


class Tracker(Protocol):
    """The driver's hold on a tracked run."""

    sink: SinkSpec

    def describe(self) -> str:
        """Where the metrics go, and the command that shows them."""

    def system_metrics(self) -> AbstractContextManager[None]:
        """Record the machine's load while the block runs."""

    def publish(self, model_file: Path, checkpoint: Path, files: list[Path], about: VersionFacts) -> str:
        """Attach a checkpoint and files to the run, register the network; returns what to tell the user."""

    def attach(self, files: list[Path]) -> None:
        """Keep files with the run."""

    def end(self, status: str) -> bool:
        """Close the run: FINISHED, FAILED or KILLED; whether the tracker took it."""


class FileTracker:
    """Metrics as lines of JSON in the run's folder; nothing is registered."""

    def __init__(self, folder: Place, anew: bool = False) -> None:
        file = folder / "metrics.jsonl"
        if anew:
            remove(file)
        self.sink = SinkSpec(str(file), None)

    def describe(self) -> str:
        return f"metrics: {self.sink.target}"

    def system_metrics(self) -> AbstractContextManager[None]:
        return nullcontext()

    def publish(self, model_file: Path, checkpoint: Path, files: list[Path], about: VersionFacts) -> str:
        return "not registered: tracking.backend is jsonl"

    def attach(self, files: list[Path]) -> None:
        pass

    def end(self, status: str) -> bool:
        return True


def open_tracker(
    config: TrainingConfig, folder: Place, in_ray_job: bool, parent: str | None = None, anew: bool = False
) -> Tracker:
    """The tracker that the configuration names, with this run created or found again.

    ``parent`` is the MLflow run that this one is nested in, as a search's trials are. ``anew`` creates the run without
    what an earlier one of its name has left.

    Raises:
        UserError: MLflow is not installed, or its server does not answer.
    """
    if config.tracking.backend == "jsonl":
        return FileTracker(folder, anew)
    if importlib.util.find_spec("mlflow") is None:
        raise UserError("MLflow is not installed: pip install 'anysr[train]', or set tracking.backend=jsonl")
    from pipeline.tracking.mlflow_run import MlflowRun, tracking_uri

    return MlflowRun(tracking_uri(config, in_ray_job), config, parent, anew)
