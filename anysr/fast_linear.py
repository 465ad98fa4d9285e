"""Linear layers as fast as the processor allows, for inference.

On many CPUs one thread gets half as much out of ``F.linear`` (which torch hands to MKL) as out of
oneDNN with the weight laid out beforehand; torch has that operator for its compiler's use. It knows
no gradients, so training, other devices and builds without it take the plain layer: same answer.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from anysr.native.library import is_plain_wanted

Activation = Literal["none", "relu", "gelu"]

_ACTIVATIONS = {"none": lambda x: x, "relu": torch.relu_, "gelu": F.gelu}


class FastLinear:
    """A linear layer and its activation, prepared once and applied to many blocks of rows."""

    def __init__(self, weight: Tensor, bias: Tensor, activation: Activation = "none") -> None:
        """Prepare ``weight`` (N, K) and ``bias`` (N), already in the dtype of the rows to come."""
        self.weight, self.bias, self.activation = weight, bias, activation
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()) if can_pack(weight) else None

    def __call__(self, x_QK: Tensor) -> Tensor:
        """activation(x W^T + b) for contiguous rows."""
        if self._packed is not None:
            return torch.ops.mkldnn._linear_pointwise(x_QK, self._packed, self.bias, self.activation, [], "none")
        rows: Tensor = _ACTIVATIONS[self.activation](F.linear(x_QK, self.weight, self.bias))
        return rows


def inference_dtype(like: Tensor) -> torch.dtype:
    """The precision in which blocks are computed for features like these.

    The features' own, or autocast's where that is on. Where the processor multiplies bfloat16 more
    slowly than float32 (measured: half as fast on Intel cores without AMX) it is float32: faster
    and closer to the exact answer.
    """
    kind = like.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype
    return torch.float32 if kind == "cpu" and dtype == torch.bfloat16 and not has_fast_bf16(like.device) else dtype


def has_fast_bf16(device: torch.device) -> bool:
    """Whether products run faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != "cpu" or _cpu_has_fast_bf16()


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN's operators for packed weights are there for it, and allowed: they know no gradients."""
    return (
        not is_plain_wanted()
        and weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and torch._C._has_mkldnn
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@cache
def has_fast_mkl() -> bool:
    """Whether torch's plain product of a few hundred rows is as fast as oneDNN's: on Intel's processors."""
    return torch.backends.mkl.is_available() and "intel" in str(torch.cpu.get_capabilities().get("cpu_name")).lower()


@cache
def _cpu_has_fast_bf16() -> bool:
    """Architectures that are not known are taken to."""
    about = torch.cpu.get_capabilities()
    if about.get("architecture") != "x86_64":
        return True
    return bool(about.get("amx_bf16") or (about.get("avx512_bf16") and "intel" not in str(about["cpu_name"]).lower()))
