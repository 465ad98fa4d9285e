"""Whether a file's weights are weights at all, and those of a network; the refusal lists what differs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from anysr.config import ModelConfig

Shape = tuple[int, ...]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Of each kind of fault in a message.
_MOST_LISTED = 200
# Parts that are built in a moment, however few tensors there are; the comparison then lists what is missing.
_FEW_PARTS = 500


def check_tensors(where: str, tensors: Mapping[str, Tensor], file_bytes: int) -> None:
    """Refuse what is no dense tensor of finite floating-point numbers; batch norms' counts of batches may be whole.

    Args:
        where: the file.
        tensors: by name, none of which has been copied yet.
        file_bytes: of the file, which holds every number of its tensors once.

    Raises:
        ValueError: in one line, the first such tensor and what it is, or that tensors are repeated from fewer numbers.
    """
    for name, tensor in tensors.items():
        if fault := _fault(name, tensor):
            raise _unfit(where, name, fault)
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    if sum(sizes.values()) > file_bytes:
        largest = max(sizes, key=sizes.__getitem__)
        raise ValueError(
            f"the weights in {where} would take {sum(sizes.values())} bytes, but the whole file has {file_bytes}: some "
            f"repeat the same numbers, perhaps {largest} of {sizes[largest]}; store each tensor with its own"
        )
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise _unfit(where, name, "not finite everywhere")


def check_one_type(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights of several floating-point types.

    Raises:
        ValueError: the types.
    """
    if len(kinds := {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}) > 1:
        listed = ", ".join(sorted(map(str, kinds)))
        raise ValueError(f"the weights in {where} are of several types ({listed}); store them in one")


def check_parts(config: ModelConfig, num_tensors: int) -> None:
    """Refuse more blocks and layers than there are tensors, before any time goes into making them.

    Raises:
        ValueError: as said.
    """
    for name, part in (("encoder", config.encoder), ("decoder", config.decoder)):
        counts = {f.name: getattr(part, f.name) for f in fields(part) if f.name.startswith("num_")}
        if math.prod(counts.values()) > max(_FEW_PARTS, num_tensors):
            listed = ", ".join(f"{key} {count}" for key, count in counts.items())
            raise ValueError(f"{num_tensors} tensors are too few for its {name} of {listed}")


def check_fit(where: str, expected: Mapping[str, Shape], given: Mapping[str, Shape]) -> None:
    """Compare names and shapes; trailing ones do not count, since 1x1 convolutions are linear layers.

    Nor does whether several experts' kernels have a dimension of their own.

    Raises:
        ValueError: in one line, the first missing, unexpected and mis-shaped keys and how many more there are.
    """
    faults = {
        "missing": [f"{name} {shape}" for name, shape in expected.items() if name not in given],
        "unexpected": [f"{name} {shape}" for name, shape in given.items() if name not in expected],
        "mis-shaped": [
            f"{name} is {given[name]}, not {shape}"
            for name, shape in expected.items()
            if name in given and _trimmed(given[name]) != _trimmed(shape)
        ],
    }
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {_listed(names)}" for kind, names in faults.items() if names)
        raise ValueError(f"the weights in {where} do not fit: {listed}")


def _fault(name: str, tensor: Tensor) -> str | None:
    """What keeps a tensor from being a weight, but for its values."""
    if tensor.layout != torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    if tensor.device.type != "cpu":
        return f"on device {tensor.device}, without values"
    # The one whole number that networks keep beside their weights.
    is_count = name.endswith("num_batches_tracked") and not (tensor.is_floating_point() or tensor.is_complex())
    if tensor.is_quantized or not (tensor.dtype in _FLOATS or is_count):
        return str(tensor.dtype)
    return None


def _unfit(where: str, name: str, fault: str) -> ValueError:
    return ValueError(
        f"the weights in {where} are of another kind: {name} is {fault}; they must be dense, finite and float16, "
        "bfloat16, float32 or float64"
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" … and {more} more" if more > 0 else "")


def _trimmed(shape: Shape) -> Shape:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    # Kernels of several experts: one after the other here, apart in the release.
    return (shape[0] * shape[1], *shape[2:]) if len(shape) == 5 else shape
