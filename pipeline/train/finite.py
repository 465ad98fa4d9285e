"""Stopping a run whose loss or gradient is not a number any more, before anything of it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.draws import Draw
from pipeline.data.samples import Batch
from pipeline.errors import FatalError


class NonFiniteLossError(FatalError):
    """The loss or its gradient is not a number any more; what was saved is intact."""


class OneWorkerError(NonFiniteLossError):
    """The same, where other workers may be going on."""


@dataclass(frozen=True)
class _Seen:
    values: Tensor  # each part's loss, then the gradient's norm
    parts: Sequence[tuple[Draw, Sequence[str]]]
    step: int


class FiniteWatch:
    """Looks at every step's losses and gradient: at once on the CPU, later on a GPU.

    Looking makes the CPU wait for the GPU, so there the steps are kept until :meth:`check`, which has
    to be called before their weights are logged, scored or saved. The first bad step is what it names.
    """

    def __init__(self) -> None:
        self._unseen: list[_Seen] = []

    def add(self, losses: Sequence[Tensor], norm: Tensor, parts: Sequence[Batch], step: int) -> None:
        """Note the losses of a step's parts, which add up to its own, and its gradient's norm.

        On the CPU this is :meth:`check`, too.
        """
        values = torch.stack([value.detach().float() for value in (*losses, norm)])
        self._unseen.append(_Seen(values, [(part.draw, part.names) for part in parts], step))
        if norm.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Look at the steps since the last look.

        Raises:
            NonFiniteLossError: a loss or a gradient was not a number.
        """
        if not self._unseen:
            return
        unseen, self._unseen = self._unseen, []
        values = torch.stack([seen.values for seen in unseen]).cpu()
        bad = (~torch.isfinite(values)).any(dim=1).tolist()
        if any(bad):
            first = bad.index(True)
            _refuse(unseen[first], values[first])


def _refuse(seen: _Seen, values: Tensor) -> None:
    losses, norm = values[:-1], values[-1]
    # The norm is the same on every worker; the loss is this worker's own, and L1 has no gradient where it is
    # no number, so the others may not have noticed.
    kind = OneWorkerError if torch.isfinite(norm) else NonFiniteLossError
    where = f"step {seen.step} ({_culprits(seen, losses)})"
    raise kind(
        f"the loss is {losses.sum():g} and its gradient's norm {norm:g} at {where}; the last "
        "checkpoint is kept: lower train.learning_rate, set train.clip_norm, or look at these photos"
    )


def _culprits(seen: _Seen, losses: Tensor) -> str:
    """The draws, and their photos, whose own loss is no number; all of the step where each is one."""
    finite = torch.isfinite(losses).tolist()
    photos: dict[Draw, set[str]] = {}
    for (draw, names), is_finite in zip(seen.parts, finite, strict=True):
        if all(finite) or not is_finite:
            photos.setdefault(draw, set()).update(names)
    return "; ".join(
        f"group {draw.group}, scale {draw.scale_text(3)}, photos {', '.join(sorted(names))}"
        for draw, names in photos.items()
    )
