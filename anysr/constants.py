"""A few numbers on the device where they are needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Numbers = Sequence[float] | Sequence[Sequence[float]]


def constants(values: Numbers, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``values`` as a tensor on the device of ``like``, in its precision unless told otherwise.

    From ordinary memory a GPU copies only once it has finished all earlier work, and the program waits;
    from pinned memory it copies when it gets there.
    """
    on_gpu = like.device.type == "cuda"
    return torch.tensor(values, dtype=dtype or like.dtype, pin_memory=on_gpu).to(like.device, non_blocking=on_gpu)
