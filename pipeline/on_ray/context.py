"""A Ray Train worker as the training loop sees it. See ``pipeline.train.context.WorkerContext``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint
from torch import nn

from pipeline.train.context import Progress


class RayContext:
    """One worker of a Ray Train group."""

    def __init__(self, mailbox: Any) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self._mailbox = mailbox

    def wrap(self, model: nn.Module) -> nn.Module:
        wrapped: nn.Module = ray.train.torch.prepare_model(model)
        return wrapped

    def gather(self, values: list[Any]) -> list[Any]:
        if self.world_size == 1:
            return values
        everyone: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(everyone, values)
        return [value for one in everyone for value in one]

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as folder:
            yield Path(folder)

    def save_checkpoint(self, write: Callable[[Path], None], step: int, scores: list[dict[str, Any]]) -> None:
        # A barrier: every worker reports equally often, only the first one brings files.
        if self.rank != 0:
            ray.train.report({"step": step})
            return
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            ray.train.report({"step": step, "scores": scores}, checkpoint=Checkpoint.from_directory(folder))

    def show(self, event: Progress | str) -> None:
        if self.rank == 0:
            self._mailbox.put.remote(event)

    def should_stop(self) -> bool:
        return False
