"""What the loop needs to know of the place it runs in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from anysr import AnySR


@dataclass(frozen=True)
class Progress:
    """One line of the progress display.

    Attributes:
        step: steps done, of ``total``.
        loss: mean absolute error since the last line, in the range [-1, 1] of the networks.
        trained: the step's scale and widths, or how many groups it trained.
        images_per_s: crops a second over all workers.
        eta_s: seconds until the last step at this pace, validation not counted.
    """

    step: int
    total: int
    loss: float
    trained: str
    images_per_s: float
    eta_s: float

    def line(self) -> str:
        """As plain text."""
        minutes, seconds = divmod(int(self.eta_s + 0.5), 60)
        width = len(str(self.total))
        return (
            f"step {self.step:>{width}}/{self.total}  loss {self.loss:.4f}  {self.trained:<14} "
            f"{self.images_per_s:6.1f} images/s  ETA {minutes}:{seconds:02d}"
        )


class WorkerContext(Protocol):
    """One worker among ``world_size`` that run the same loop in step."""

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, model: AnySR) -> nn.Module:
        """The model as the loop calls it: averaging gradients over the workers."""

    def gather(self, values: list[Any]) -> list[Any]:
        """All workers' values, in order of rank, on every worker."""

    def latest_checkpoint(self) -> AbstractContextManager[Path | None]:
        """A folder with the latest complete checkpoint, or None."""

    def save_checkpoint(self, write: Callable[[Path], None], step: int, scores: list[dict[str, Any]]) -> None:
        """Save what ``write`` puts into a folder (rank 0 only); every worker calls this.

        ``scores`` are those of the last validation, for a search that watches the run.
        """

    def show(self, event: Progress | str) -> None:
        """Tell the user something."""

    def should_stop(self) -> bool:
        """Whether the user asked to save and stop."""
