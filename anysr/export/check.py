"""Whether what was written answers as the network does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from anysr.geometry import Pair
from anysr.model import AnySR

TOLERANCE = 1e-3
# Odd, even, wider, higher.
_SIZES = ((23, 32), (32, 19), (7, 11))

Answer = Callable[[torch.Tensor, Pair], np.ndarray]


@torch.no_grad()
def check_answers(model: AnySR, subnet: int, answer: Answer, what: str) -> float:
    """The largest difference from the network over three sizes and three scales.

    Args:
        model: the network.
        subnet: index of the one that was written.
        answer: (1, 3, h, w) and a scale pair to (1, 3, H, W).
        what: for the message.

    Raises:
        ValueError: it is larger than ``TOLERANCE``.
    """
    worst, noise = 0.0, torch.Generator().manual_seed(0)
    for scale in _scales(model, subnet):
        for height, width in _SIZES:
            lr = torch.rand(1, 3, height, width, generator=noise)
            expected = model(lr, scale, subnet=subnet).numpy()
            given = answer(lr, scale)
            where = f"on {width} x {height} pixels at scale {scale[0]:g} x {scale[1]:g}"
            if given.shape != expected.shape:
                raise ValueError(f"{what} is wrong {where}: shape {given.shape}, the network's is {expected.shape}")
            difference = float(np.abs(given - expected).max())
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"{what} differs from the network by {difference:.2g} (of 1) {where}, more than {TOLERANCE:g}; "
                    "its file is not kept"
                )
            worst = max(worst, difference)
    return worst


def _scales(model: AnySR, subnet: int) -> Iterator[Pair]:
    """×1, a pair that the subnet serves, and beyond what it was trained for."""
    factor = model.config.fixed_factor
    if factor is not None:
        yield float(factor), float(factor)
        return
    low, high = model.subnets[subnet].scales
    yield from ((1.0, 1.0), (low, (low + high) / 2), (model.subnets[-1].scales[1] * 1.3,) * 2)
