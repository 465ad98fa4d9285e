"""Training steps as CUDA graphs: a few launches instead of thousands.

A small network on a large GPU waits for Python: forward and backward of 16 narrow residual blocks are
some 1,500 kernels of a few microseconds each. Crops have one size and batches one length, so the same
kernels come again at every step, of each width; recorded once, they are replayed without Python.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from anysr import AnySR
from anysr.decoders.liif import Liif
from anysr.decoders.metasr import MetaSr
from anysr.decoders.srno import Srno
from anysr.geometry import Pair, PointQueries, Queries, pair_tensor

_WARM_UP = 3  # cuDNN and cuBLAS choose their kernels and take their workspace before anything is recorded


def graphed(model: AnySR) -> AnySR:
    """The same network over the same weights, for training steps alone, its encoder and decoder replayed.

    For one loop that finishes each backward pass before the next forward pass; not for
    ``DistributedDataParallel``. A network that is not on a GPU stays as it is, and so does an encoder that
    keeps statistics (ArbSR's adaption), as the trial runs before a recording would count in them.
    """
    encoder, decoder = model.encoder, model.decoder
    if not any(p.is_cuda for p in encoder.parameters()) or any(True for _ in encoder.buffers()):
        return model
    twin, stream = copy.copy(model), torch.cuda.Stream(next(encoder.parameters()).device)
    twin._modules = {**model._modules, "encoder": _GraphedEncoder(encoder, stream)}
    if isinstance(decoder, Liif | Srno | MetaSr):  # the others ask for the scale as a number
        twin._modules["decoder"] = _GraphedDecoder(decoder, stream)
    return twin


class _Graphed(nn.Module):
    """Takes a part's place; records graphs for every width and batch shape that comes along."""

    def __init__(self, part: nn.Module, stream: torch.cuda.Stream) -> None:
        super().__init__()
        self._part, self._stream = part, stream
        self._recorded: dict[tuple[Any, ...], _Recorded] = {}
        # One for each part: what the encoder keeps for its backward pass has to outlive the decoder's.
        self._memory = torch.cuda.graph_pool_handle()

    def replay(self, width: int, given: Sequence[Tensor], run: _Run) -> Tensor:
        """What ``run`` makes of the part with other parameters and the tensors given, whose values may change."""
        rounded = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
        key = (width, rounded, *((t.shape, t.dtype, t.requires_grad) for t in given))
        if key not in self._recorded:
            with torch.cuda.device(self._stream.device):
                self._recorded[key] = _Recorded.of(self._part, given, run, self._stream, self._memory)
        recorded = self._recorded[key]
        return cast(Tensor, _Replay.apply(recorded, *given, *recorded.parameters))


class _GraphedEncoder(_Graphed):
    def forward(self, image_B3HW: Tensor, scale: Pair, width: int) -> Tensor:
        given = image_B3HW, pair_tensor(scale, image_B3HW)
        return self.replay(width, given, lambda part, image, scale: part(image, scale, width))


class _GraphedDecoder(_Graphed):
    def forward(self, feat_BDhw: Tensor, image_B3hw: Tensor, queries: Queries, width: int) -> Tensor:
        assert isinstance(queries, PointQueries) and queries.scale is not None, "training asks at points"
        numbers = (pair_tensor(pair, queries.coord) for pair in (queries.cell, queries.scale))
        given = feat_BDhw, image_B3hw, queries.coord, *numbers
        # A copy: the loop may keep the answer beyond the next replay.
        return self.replay(
            width, given, lambda part, feat, image, *places: part(feat, image, PointQueries(*places), width)
        ).clone()


_Run = Callable[..., Tensor]  # of the part, then tensors


@dataclass
class _Recorded:
    """Two graphs and the memory that they read and write.

    Attributes:
        parameters: of the part, read in place.
        given: read by ``forward``.
        answer: written by it.
        gradient: of the answer, read by ``backward``.
        wanted: gradients of those given that want one and None of the others, written by it.
        gradients: of all parameters, one after the other, likewise.
        forward: reads ``given``.
        backward: to be replayed after it.
        turn: changes with each replay of either.
    """

    parameters: list[nn.Parameter]
    given: list[Tensor]
    answer: Tensor
    gradient: Tensor
    wanted: list[Tensor | None]
    gradients: Tensor
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph
    turn: int = 0

    @classmethod
    def of(
        cls, part: nn.Module, given: Sequence[Tensor], run: _Run, stream: torch.cuda.Stream, memory: Any
    ) -> _Recorded:
        # Leaves of their own: those of the loop may be waiting for gradients of another stream, which is not recorded.
        leaves = {name: p.detach().requires_grad_() for name, p in part.named_parameters()}
        static = [t.detach().clone().requires_grad_(t.requires_grad) for t in given]
        sources = [t for t in static if t.requires_grad]

        # What autocast has rounded before is not there when a graph is replayed.
        autocast = partial(torch.autocast, "cuda", torch.get_autocast_dtype("cuda"), cache_enabled=False)
        is_rounded = torch.is_autocast_enabled("cuda")

        def answer() -> Tensor:
            with autocast(enabled=is_rounded):
                return run(lambda *args: functional_call(part, leaves, args), *static)

        def differentiate(answered: Tensor, gradient: Tensor) -> tuple[list[Tensor], Tensor]:
            wanted = [*sources, *leaves.values()]
            each = torch.autograd.grad(answered, wanted, gradient, allow_unused=True, materialize_grads=True)
            return list(each[: len(sources)]), torch.cat([one.flatten() for one in each[len(sources) :]])

        # As in the loop, where a backward pass begins outside autocast. Recorded on the stream of the trial runs, whose
        # workspaces are there: on another one, cuBLAS took them from a graph's memory while the first decoder of a
        # process was recorded, and gradients of 96 crops became NaN (torch 2.11, H100).
        with torch.autocast("cuda", enabled=False):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    answered = answer()
                    differentiate(answered, torch.zeros_like(answered))
                del answered
            torch.cuda.current_stream().wait_stream(stream)
            forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            # The loader pins memory in a thread of its own meanwhile.
            how: dict[str, Any] = {"pool": memory, "stream": stream, "capture_error_mode": "thread_local"}
            with torch.cuda.graph(forward, **how):
                answered = answer()
            gradient = torch.zeros_like(answered)
            with torch.cuda.graph(backward, **how):
                of_given, gradients = differentiate(answered, gradient)
        rest = iter(of_given)
        wanted = [next(rest) if t.requires_grad else None for t in static]
        given_now = [t.detach() for t in static]
        return cls(
            list(part.parameters()), given_now, answered.detach(), gradient, wanted, gradients, forward, backward
        )


class _Replay(torch.autograd.Function):
    """A recorded part as one operation on what it is given and its parameters."""

    @staticmethod
    def forward(ctx: Any, recorded: _Recorded, *tensors: Tensor) -> Tensor:
        ctx.recorded = recorded
        for place, tensor in zip(recorded.given, tensors, strict=False):  # the parameters follow
            place.copy_(tensor)
        recorded.forward.replay()
        recorded.turn += 1
        ctx.turn = recorded.turn
        return recorded.answer.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        recorded = ctx.recorded
        if ctx.turn != recorded.turn:
            raise RuntimeError(
                "a replayed network went forward again before this backward pass, or backward twice, and what it had "
                "kept is gone; finish each backward pass before the next forward pass, or set train.cuda_graphs=false"
            )
        recorded.turn += 1
        recorded.gradient.copy_(gradient)
        recorded.backward.replay()
        # Copies: autograd takes over what it is given as .grad, and the next replay overwrites its own.
        wanted = [None if one is None else one.clone() for one in recorded.wanted]
        parts = recorded.gradients.clone().split([p.numel() for p in recorded.parameters])
        return None, *wanted, *(part.view_as(p) for part, p in zip(parts, recorded.parameters, strict=True))
