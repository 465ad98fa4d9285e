"""One ``.safetensors`` file holds a network and its configuration; nothing in it can run code."""

from __future__ import annotations

import json
import os
import reprlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from anysr.checkpoints import is_pickle, load_released
from anysr.checkpoints.fit import check_fit, check_one_type, check_parts, check_tensors
from anysr.config import ModelConfig
from anysr.files import write_whole
from anysr.model import AnySR
from anysr.slimmable import AS_BUILT

_KEY, _FORMAT = "anysr", 1
_PRETRAINED = Path(__file__).parent / "weights"


def save(model: AnySR, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write weights and configuration to ``path``, which appears complete or not at all.

    Args:
        model: the network, or what torch.compile, ``DataParallel`` or ``DistributedDataParallel`` made of it.
        path: of the file, best ``*.safetensors``, which is what it is; :func:`load` goes by the content.
        half: store float32 weights as float16, at half the size; :func:`load` gives float32 again.

    Raises:
        TypeError: not such a network, or not a path.
        ValueError: what :func:`load` would refuse – weights that are not finite, of several types or on no device,
            pruned or parametrized layers, parts of your own; with ``half``, a weight that float16 cannot hold.
            Nothing is written then.
    """
    model, target = _unwrapped(model), _path(path)
    tensors = _storable(model, half)
    target.parent.mkdir(parents=True, exist_ok=True)
    # One key: the format does not keep the order of several, and equal networks are to be equal files.
    description = {"format": _FORMAT, "config": model.config.to_dict()} | ({"widen": True} if half else {})
    metadata = {_KEY: json.dumps(description)}
    write_whole(target, to_bytes(tensors, metadata))


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> AnySR:
    """Read a network in evaluation mode.

    Args:
        path: a file of :func:`save`; a released ``.pth`` checkpoint of LIIF, SRNO, AnySR, LIIF's
            Meta-SR or ArbSR, the weights telling which; or the name of a network in the box, one
            of :func:`list_pretrained`. A file of that name comes first.
        device: where to put it.

    Raises:
        FileNotFoundError: there is no such file or name.
        TypeError: not a path.
        ValueError: torch knows no such device; the file is cut short, is of no known kind, would run code, or its
            weights do not fit (missing, unexpected and mis-shaped keys are listed).
    """
    place = _device(device)
    if not _path(path).is_file():
        if str(path) not in list_pretrained():
            raise FileNotFoundError(f"no model file at {path}; in the box: {', '.join(list_pretrained())}")
        path = pretrained_file(str(path))
    model = load_released(path) if is_pickle(path) else _load_own(path)
    return model.to(place).eval()


def list_pretrained() -> list[str]:
    """Names of the trained networks that come with this package, for :func:`load`; see docs/models."""
    return sorted(file.stem for file in _PRETRAINED.glob("*.safetensors"))


def pretrained_file(name: str) -> Path:
    """The model file of a network in the box."""
    return _PRETRAINED / f"{name}.safetensors"


def _path(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"a model file is given by its path, a text or pathlib's, got {reprlib.repr(path)}")
    return Path(path)


def _device(device: Any) -> torch.device:
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f'device must be one of torch\'s, such as "cpu" or "cuda:0", got {device!r}') from None


def _unwrapped(model: Any) -> AnySR:
    while not isinstance(model, AnySR):
        if hasattr(model, "_orig_mod"):  # torch.compile's
            model = model._orig_mod
        elif isinstance(model, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            raise TypeError(f"anysr.save writes AnySR networks, as of anysr.build, got {type(model).__name__}")
    return model


def _storable(model: AnySR, half: bool) -> dict[str, torch.Tensor]:
    """The weights as they are stored, each with memory of its own; only what :func:`load` takes."""
    state = model.state_dict()
    tensors = {name: tensor.detach() if tensor.is_meta else tensor.detach().cpu() for name, tensor in state.items()}
    try:
        _check_names(model, tensors)
        check_tensors("it", tensors, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
        if half:
            tensors = {name: _halved(name, tensor) for name, tensor in tensors.items()}
        check_one_type("it", tensors)
    except ValueError as error:
        raise ValueError(f"the network cannot be saved: {error}") from None
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def _check_names(model: AnySR, tensors: dict[str, torch.Tensor]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in _shapeless(model.config).items()}
    try:
        check_fit("it", expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    except ValueError as error:
        raise ValueError(f"{error}; {AS_BUILT}") from None


def _load_own(path: str | os.PathLike[str]) -> AnySR:
    description, tensors = _read(path)
    try:
        config = ModelConfig.from_dict(description["config"])
        check_parts(config, len(tensors))
        shapeless = _shapeless(config)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} does not describe a network: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in shapeless.items()}
    check_fit(str(path), expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    model = AnySR(config)
    for name, like in shapeless.items():
        tensor = tensors[name].reshape(like.shape)
        if not like.is_floating_point():
            tensor = tensor.to(like.dtype)  # a batch norm's count of batches is whole, whatever it was stored as
        elif description.get("widen") and tensor.dtype == torch.float16:
            tensor = tensor.float()
        tensors[name] = tensor
    model.load_state_dict(tensors, assign=True)
    return model


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The description and the weights, which are weights, but of what is not known yet."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); it may be cut short") from error
    description = _description(path, metadata.get(_KEY, "{}"))
    check_tensors(str(path), tensors, Path(path).stat().st_size)
    check_one_type(str(path), tensors)
    return description, tensors


def _shapeless(config: ModelConfig) -> dict[str, torch.Tensor]:
    """The network's state on no device, which takes no memory."""
    try:
        with torch.device("meta"):
            return AnySR(config).state_dict()
    except (RuntimeError, TypeError, OverflowError):  # torch's, pages long
        raise ValueError("its layers would be of impossible sizes") from None


def _description(path: str | os.PathLike[str], text: str) -> dict[str, Any]:
    """What :func:`save` wrote beside the weights."""
    try:
        description = json.loads(text)
    except (ValueError, RecursionError):
        description = None
    if isinstance(description, dict) and description.get("format") != _FORMAT:
        raise ValueError(
            f"{path} is not an AnySR model file of format {_FORMAT} (found {reprlib.repr(description.get('format'))}); "
            "write model files with anysr.save"
        )
    if not isinstance(description, dict) or "config" not in description:
        raise ValueError(f"{path} does not describe a network; write model files with anysr.save")
    return description


def _halved(name: str, tensor: torch.Tensor) -> torch.Tensor:
    half = tensor.half() if tensor.dtype == torch.float32 else tensor
    if not torch.isfinite(half).all():
        raise ValueError(f"{name} holds values beyond float16's 65,504; save without half")
    return half
