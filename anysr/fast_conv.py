"""3 x 3 convolutions as fast as the processor allows; torch's own where they are the fastest."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from anysr.fast_linear import can_pack, has_fast_bf16
from anysr.native.fused import conv3x3, gradient_parts, parts_for, weight_gradient

# Below, laying out the weights costs more than it brings.
_MIN_PIXELS, _MIN_CHANNELS = 4096, 16


def fast_conv3x3(
    x_BCHW: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    relu: bool = False,
    skip: Tensor | None = None,
    factor: float = 1.0,
) -> Tensor:
    """Skip + factor * relu(same-padded convolution), the ReLU and the skip as asked for; with gradients."""
    parts = _parts(x_BCHW, weight)
    if parts is not None:
        skip_BhwN = None if skip is None else _pixels(skip)
        return conv3x3(_pixels(x_BCHW), weight, bias, parts, relu, skip_BhwN, factor).permute(0, 3, 1, 2)
    if not (relu and skip is not None) and _can_follow(x_BCHW, weight, skip):
        return _followed_conv3x3(x_BCHW, weight, bias, relu, skip, factor)
    if torch.is_grad_enabled() and (parts := _gradient_parts(x_BCHW, weight)) is not None:
        y = cast(Tensor, _TrainedConv3x3.apply(x_BCHW, weight, bias, relu, parts))
    else:
        y = F.conv2d(x_BCHW, weight, bias, padding=1)
        y = torch.relu_(y) if relu else y
    if factor != 1:
        y = y * factor
    if skip is None:
        return y
    # Nothing reads a convolution's answer again for its gradients; those of a ReLU are read.
    return skip + y if relu or y.dtype != skip.dtype else y.add_(skip)


def _followed_conv3x3(
    x_BCHW: Tensor, weight: Tensor, bias: Tensor, relu: bool, skip: Tensor | None, factor: float
) -> Tensor:
    """Torch's convolution by oneDNN, which applies the ReLU or adds the skip before its answer leaves the cache."""
    if factor != 1:
        weight, bias = weight * factor, bias * factor
    weight = weight.contiguous(memory_format=torch.channels_last)
    where = ([1, 1], [1, 1], [1, 1], 1)  # padding, stride, dilation, groups
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *where, list(x_BCHW.shape))
    if skip is None:
        unary = "relu" if relu else "none"
        return torch.ops.mkldnn._convolution_pointwise(x_BCHW, packed, bias, *where, unary, [], None)
    convolve_and = torch.ops.mkldnn._convolution_pointwise.binary
    return convolve_and(x_BCHW, skip, packed, bias, *where, "add", None, None, [], None)


def _can_follow(x_BCHW: Tensor, weight: Tensor, skip: Tensor | None) -> bool:
    """Whether oneDNN's operator knows the case; small images do not repay laying out the weights."""
    maps = [x_BCHW] if skip is None else [x_BCHW, skip]
    return (
        can_pack(weight)
        and not torch.is_autocast_enabled("cpu")
        and (weight.dtype == torch.float32 or has_fast_bf16(weight.device))
        and x_BCHW.shape[2] * x_BCHW.shape[3] >= _MIN_PIXELS
        and all(m.dtype == weight.dtype and m.is_contiguous(memory_format=torch.channels_last) for m in maps)
    )


class _TrainedConv3x3(torch.autograd.Function):
    """Torch's convolution with the kernels' gradient of the weights."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight: Tensor, bias: Tensor, relu: bool, parts: int) -> Tensor:
        y = F.conv2d(x_BCHW, weight, bias, padding=1)
        y = torch.relu_(y) if relu else y
        ctx.relu, ctx.parts = relu, parts
        ctx.save_for_backward(x_BCHW, weight, y if relu else weight)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        if ctx.relu:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        sizes = [len(weight)], [1, 1], [1, 1], [1, 1], False, [0, 0], 1
        if torch.is_grad_enabled():  # to be differentiated again, which the kernels cannot be
            wanted = list(ctx.needs_input_grad[:3])
            return *torch.ops.aten.convolution_backward(grad, x, weight, *sizes, wanted), None, None
        wanted = [ctx.needs_input_grad[0], False, False]
        grad_x = torch.ops.aten.convolution_backward(grad, x, weight, *sizes, wanted)[0] if wanted[0] else None
        grad_weight, grad_bias = weight_gradient(_pixels(x), _pixels(grad), 9, ctx.parts)
        return grad_x, grad_weight.reshape(weight.shape), grad_bias, None, None


def _gradient_parts(x_BCHW: Tensor, weight: Tensor) -> int | None:
    """The kernel's way to multiply for the gradient of the weights; with few channels there is little to gain."""
    if torch.compiler.is_compiling():  # sizes may be unknown
        return None
    if min(weight.shape[:2]) < _MIN_CHANNELS or weight.dtype != torch.float32 or not weight.requires_grad:
        return None
    return gradient_parts(x_BCHW, x_BCHW[:, 0].numel())


def _parts(x_BCHW: Tensor, weight: Tensor) -> int | None:
    """The kernel's way to multiply; it pays where float32 goes through the tiles of AMX."""
    if torch.compiler.is_compiling() or x_BCHW.dtype != torch.float32:
        return None
    if x_BCHW.shape[2] * x_BCHW.shape[3] < _MIN_PIXELS:
        return None
    if x_BCHW.shape[1] < _MIN_CHANNELS or weight.dtype != torch.float32:
        return None
    return parts_for(x_BCHW) or None


def _pixels(x_BCHW: Tensor) -> Tensor:
    """(B, h, w, C), contiguous; no copy of an image in channels-last order."""
    return x_BCHW.permute(0, 2, 3, 1).contiguous()
