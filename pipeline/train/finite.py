"""Stopping a run whose loss or gradient is not a number any more, before anything of it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.samples import Batch
from pipeline.errors import FatalError


class NonFiniteLossError(FatalError):
    """The loss or its gradient is not a number any more; what was saved is intact."""


class OneWorkerError(NonFiniteLossError):
    """The same, where other workers may be going on."""


@dataclass(frozen=True)
class _Seen:
    loss: Tensor
    norm: Tensor
    batch: str
    step: int


class FiniteWatch:
    """Looks at every step's loss and gradient: at once on the CPU, later on a GPU.

    Looking makes the CPU wait for the GPU, so there the steps are kept until :meth:`check`, which has
    to be called before their weights are logged, scored or saved. The first bad step is what it names.
    """

    def __init__(self) -> None:
        self._unseen: list[_Seen] = []

    def add(self, loss: Tensor, norm: Tensor, batches: Sequence[Batch], step: int) -> None:
        """Note a step's loss and gradient norm; on the CPU this is :meth:`check`, too."""
        where = "; ".join(_described(batch) for batch in batches)
        self._unseen.append(_Seen(loss.detach(), norm.detach(), where, step))
        if loss.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Look at the steps since the last look.

        Raises:
            NonFiniteLossError: a loss or a gradient was not a number.
        """
        if not self._unseen:
            return
        values = torch.stack([torch.stack([seen.loss.float(), seen.norm.float()]) for seen in self._unseen])
        unseen, self._unseen = self._unseen, []
        bad = (~torch.isfinite(values)).any(dim=1).tolist()
        if any(bad):
            first = bad.index(True)
            _refuse(unseen[first], *values[first].tolist())


def _described(batch: Batch) -> str:
    photos = ", ".join(sorted(set(batch.names)))
    return f"group {batch.draw.group}, scale {batch.draw.scale_text(3)}, photos {photos}"


def _refuse(seen: _Seen, loss: float, norm: float) -> None:
    # The norm is the same on every worker; the loss is this worker's own, and L1 has no gradient where it is
    # no number, so the others may not have noticed.
    kind = OneWorkerError if torch.isfinite(torch.tensor(norm)) else NonFiniteLossError
    raise kind(
        f"the loss is {loss:g} and its gradient's norm {norm:g} at step {seen.step} ({seen.batch}); the last "
        "checkpoint is kept: lower train.learning_rate, set train.clip_norm, or look at these photos"
    )
