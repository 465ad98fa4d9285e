"""A Ray Train worker as the training loop sees it. See ``pipeline.train.context.WorkerContext``."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint
from torch import nn

from anysr import AnySR
from pipeline.errors import one_line
from pipeline.storage.s3 import DamagedError
from pipeline.train.checkpoints import all_damaged, damage, fill_checkpoint
from pipeline.train.context import Progress

_WATCH_S = 0.5


class RayContext:
    """One worker of a Ray Train group."""

    def __init__(self, mailbox: Any) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self._mailbox = mailbox
        self._stop = threading.Event()
        if self.rank == 0:
            threading.Thread(target=self._watch_for_stop, name="stop", daemon=True).start()

    def wrap(self, model: AnySR) -> nn.Module:
        # Other buffers are constants: to send them again would make the workers wait for each other once more a step.
        has_statistics = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        kwargs = {"broadcast_buffers": has_statistics, "gradient_as_bucket_view": True}
        wrapped: nn.Module = ray.train.torch.prepare_model(model, parallel_strategy_kwargs=kwargs)
        return wrapped

    def gather(self, values: list[Any]) -> list[Any]:
        if self.world_size == 1:
            return values
        everyone: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(everyone, values)
        return [value for one in everyone for value in one]

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        if ray.train.get_checkpoint() is None:
            yield None
            return
        reported = ray.train.get_all_reported_checkpoints(ray.train.CheckpointConsistencyMode.COMMITTED)
        checkpoints = [one.checkpoint for one in reversed(reported)]
        for checkpoint in checkpoints:
            with ExitStack() as stack:
                folder, fault = _opened(checkpoint, stack)
                # One damaged copy is enough: all workers go on from the same checkpoint.
                faults = [one for one in self.gather([fault]) if one is not None]
                if not faults:
                    yield folder
                    return
                self.show(
                    f"checkpoint {checkpoint.path} is damaged ({faults[0]}) and not used; looking at the one before"
                )
        raise all_damaged([str(checkpoint.path) for checkpoint in checkpoints])

    def save_checkpoint(self, write: Callable[[Path], None], step: int, scores: list[dict[str, Any]]) -> None:
        # A barrier: every worker reports equally often, only the first one brings files.
        if self.rank != 0:
            ray.train.report({"step": step})
            return
        with tempfile.TemporaryDirectory() as folder:
            fill_checkpoint(Path(folder), write, f"of step {step}")
            ray.train.report({"step": step, "scores": scores}, checkpoint=Checkpoint.from_directory(folder))

    def show(self, event: Progress | str) -> None:
        if self.rank == 0:
            self._mailbox.put.remote(event)

    def should_stop(self) -> bool:
        return self._stop.is_set()

    def _watch_for_stop(self) -> None:
        with suppress(ray.exceptions.RayError):  # the driver is gone, and this worker will be
            while not self._stop.wait(_WATCH_S):
                if ray.get(self._mailbox.is_stopping.remote()):
                    self._stop.set()


def _opened(checkpoint: Checkpoint, stack: ExitStack) -> tuple[Path, str | None]:
    """This node's copy of a checkpoint, and what is wrong with it."""
    try:
        folder = Path(stack.enter_context(checkpoint.as_directory()))
    except (DamagedError, FileNotFoundError) as error:
        return Path(), one_line(error)
    return folder, damage(folder)
