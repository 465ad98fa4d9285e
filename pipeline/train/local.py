"""The loop in this process, without Ray: one worker, on the GPU if there is one."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from anysr import AnySR
from pipeline.config import TrainingConfig
from pipeline.errors import UserError
from pipeline.run import Fitted
from pipeline.storage.places import parse_place
from pipeline.storage.transfer import exists
from pipeline.tracking.metric_log import MetricLog
from pipeline.tracking.tracker import SinkSpec
from pipeline.train.checkpoints import CHECKPOINTS, RAY_SNAPSHOT, Checkpoints
from pipeline.train.context import Progress
from pipeline.train.display import Display
from pipeline.train.graphs import graphed
from pipeline.train.loop import train
from pipeline.train.stopping import on_stop_signals


class LocalContext:
    """One worker; checkpoints are folders named by step. See ``WorkerContext``."""

    rank = 0
    world_size = 1

    def __init__(self, checkpoints: Checkpoints, display: Display, cuda_graphs: bool = False) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._checkpoints, self._display, self._cuda_graphs = checkpoints, display, cuda_graphs
        self._stop = False

    def wrap(self, model: AnySR) -> nn.Module:
        return graphed(model) if self._cuda_graphs else model

    def gather(self, values: list[Any]) -> list[Any]:
        return values

    def latest_checkpoint(self) -> AbstractContextManager[Path | None]:
        return self._checkpoints.latest(self.show)

    def save_checkpoint(self, write: Callable[[Path], None], step: int, scores: list[dict[str, Any]]) -> None:
        self._checkpoints.save(write, step)

    def show(self, event: Progress | str) -> None:
        self._display.show(event)

    def should_stop(self) -> bool:
        return self._stop

    def request_stop(self, signal_number: int, frame: FrameType | None) -> None:
        """First signal: save and stop after this step. Second: stop at once.

        A terminal that is closed may send SIGHUP twice: by itself and by its shell.
        """
        if self._stop and signal_number != signal.SIGHUP:
            raise KeyboardInterrupt
        self._stop = True


def fit_locally(config: TrainingConfig, sink: SinkSpec) -> Fitted:
    """Train in this process; SIGINT, SIGTERM and a terminal that is closed save a checkpoint first."""
    torch.set_num_threads(config.ray.cpus_per_worker * config.ray.most_workers)
    place = parse_place(config.run.storage) / str(config.run.name)
    if exists(place / RAY_SNAPSHOT):
        raise UserError(
            f"the run {config.run.name!r} was started on Ray: go on with it there, or choose a new run.name"
        )
    checkpoints = Checkpoints(place / CHECKPOINTS, config.ray.keep_checkpoints)
    with Display(sys.stdout, config.train.steps) as display:
        context = LocalContext(checkpoints, display, config.train.cuda_graphs)
        with closing(MetricLog(sink.open())) as log, on_stop_signals(context.request_stop, signal.SIGINT):
            outcome = train(config, context, log, sink.run_id)
        with context.latest_checkpoint() as folder:
            assert folder is not None
            return Fitted(outcome, folder)
