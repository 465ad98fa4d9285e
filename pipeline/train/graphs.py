"""Training steps of an encoder as CUDA graphs: one launch instead of a thousand.

A small network on a large GPU waits for Python: forward and backward of 16 narrow residual blocks are
some 1,500 kernels of a few microseconds each. Crops have one size and batches one length, so the same
kernels come again at every step, of each width; recorded once, they are replayed without Python.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from anysr import AnySR
from anysr.geometry import Pair, pair_tensor

_WARM_UP = 3  # cuDNN and cuBLAS choose their kernels and take their workspace before anything is recorded


def graphed(model: AnySR) -> AnySR:
    """The same network over the same weights, for training steps alone, its encoder replayed.

    For one loop that finishes each backward pass before the next forward pass; not for
    ``DistributedDataParallel``. A network that is not on a GPU stays as it is, and so does an encoder that
    keeps statistics (ArbSR's adaption), as the trial runs before a recording would count in them.
    """
    encoder = model.encoder
    if not any(p.is_cuda for p in encoder.parameters()) or any(True for _ in encoder.buffers()):
        return model
    twin = copy.copy(model)
    twin._modules = {**model._modules, "encoder": _GraphedEncoder(encoder)}
    return twin


class _GraphedEncoder(nn.Module):
    """Takes the encoder's place; records a graph for every width and batch shape that comes along."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self._encoder = encoder
        self._recorded: dict[tuple[Any, ...], _Recorded] = {}
        self._memory = torch.cuda.graph_pool_handle()  # one, as no two of them are at work at once

    def forward(self, image_B3HW: Tensor, scale: Pair, width: int) -> Tensor:
        rounded = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
        key = (width, image_B3HW.shape, image_B3HW.dtype, rounded)
        if key not in self._recorded:
            self._recorded[key] = _Recorded.of(self._encoder, image_B3HW, width, self._memory)
        parameters = self._recorded[key].parameters
        return cast(Tensor, _Replay.apply(self._recorded[key], image_B3HW, pair_tensor(scale, image_B3HW), *parameters))


@dataclass(frozen=True)
class _Recorded:
    """Two graphs and the memory that they read and write.

    Attributes:
        parameters: of the encoder, read in place.
        image: read by ``forward``.
        scale: (2,), likewise.
        features: written by it.
        gradient: of the features, read by ``backward``.
        gradients: of all parameters, one after the other, written by it.
        forward: reads ``image`` and ``scale``.
        backward: to be replayed after it.
    """

    parameters: list[nn.Parameter]
    image: Tensor
    scale: Tensor
    features: Tensor
    gradient: Tensor
    gradients: Tensor
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph

    @classmethod
    def of(cls, encoder: nn.Module, image_B3HW: Tensor, width: int, memory: Any) -> _Recorded:
        parameters = list(encoder.parameters())
        # Leaves of their own: those of the loop may be waiting for gradients of another stream, which is not recorded.
        leaves = {name: p.detach().requires_grad_() for name, p in encoder.named_parameters()}
        image, scale = image_B3HW.detach().clone(), image_B3HW.new_full((2,), 2.0)

        def encode() -> Tensor:
            return cast(Tensor, functional_call(encoder, leaves, (image, scale, width)))

        def differentiate(features: Tensor, gradient: Tensor) -> Tensor:
            each = torch.autograd.grad(
                features, list(leaves.values()), gradient, allow_unused=True, materialize_grads=True
            )
            return torch.cat([one.flatten() for one in each])

        # What autocast has rounded before is not there when a graph is replayed.
        with torch.autocast(
            "cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), cache_enabled=False
        ):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP):
                    features = encode()
                    differentiate(features, torch.zeros_like(features))
                del features
            torch.cuda.current_stream().wait_stream(aside)
            forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            # The loader pins memory in a thread of its own meanwhile.
            with torch.cuda.graph(forward, pool=memory, capture_error_mode="thread_local"):
                features = encode()
            gradient = torch.zeros_like(features)
            with torch.cuda.graph(backward, pool=memory, capture_error_mode="thread_local"):
                gradients = differentiate(features, gradient)
        return cls(parameters, image, scale, features.detach(), gradient, gradients, forward, backward)


class _Replay(torch.autograd.Function):
    """The recorded encoder as one operation on its parameters."""

    @staticmethod
    def forward(ctx: Any, recorded: _Recorded, image: Tensor, scale: Tensor, *parameters: Tensor) -> Tensor:
        ctx.recorded = recorded
        recorded.image.copy_(image)
        recorded.scale.copy_(scale)
        recorded.forward.replay()
        return recorded.features.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        recorded = ctx.recorded
        recorded.gradient.copy_(gradient)
        recorded.backward.replay()
        # A copy: autograd takes over what it is given as .grad, and the next replay overwrites its own.
        parts = recorded.gradients.clone().split([p.numel() for p in recorded.parameters])
        return None, None, None, *(part.view_as(p) for part, p in zip(parts, recorded.parameters, strict=True))
