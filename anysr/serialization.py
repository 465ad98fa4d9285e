"""One ``.safetensors`` file holds a network and its configuration; nothing in it can run code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from anysr.checkpoints import is_pickle, load_released
from anysr.checkpoints.fit import check_fit
from anysr.config import ModelConfig
from anysr.files import write_whole
from anysr.model import AnySR

_KEY, _FORMAT = "anysr", 1
_PRETRAINED = Path(__file__).parent / "weights"


def save(model: AnySR, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write weights and configuration to ``path``, which appears complete or not at all.

    Args:
        model: the network.
        path: ``*.safetensors``.
        half: store float32 weights as float16, at half the size; :func:`load` gives float32 again.

    Raises:
        ValueError: with ``half``, a weight that float16 cannot hold.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # One key: the format does not keep the order of several, and equal networks are to be equal files.
    description = {"format": _FORMAT, "config": model.config.to_dict()} | ({"widen": True} if half else {})
    metadata = {_KEY: json.dumps(description)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        tensors = {name: _halved(name, tensor) for name, tensor in tensors.items()}
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
        ValueError: the file is cut short, is of no known kind, would run code, or its weights do not
            fit (missing, unexpected and mis-shaped keys are listed).
    """
    if not Path(path).is_file():
        if str(path) not in list_pretrained():
            raise FileNotFoundError(f"no model file at {path}; in the box: {', '.join(list_pretrained())}")
        path = pretrained_file(str(path))
    model = load_released(path) if is_pickle(path) else _load_own(path)
    return model.to(device).eval()


def list_pretrained() -> list[str]:
    """Names of the trained networks that come with this package, for :func:`load`; see docs/models."""
    return sorted(file.stem for file in _PRETRAINED.glob("*.safetensors"))


def pretrained_file(name: str) -> Path:
    """The model file of a network in the box."""
    return _PRETRAINED / f"{name}.safetensors"


def _load_own(path: str | os.PathLike[str]) -> AnySR:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); it may be cut short") from error
    try:
        description = json.loads(metadata.get(_KEY, "{}"))
        if description.get("format") != _FORMAT:
            raise ValueError(
                f"{path} is not an AnySR model file of format {_FORMAT} (found {description.get('format')!r}); "
                "write model files with anysr.save"
            )
        config = ModelConfig.from_dict(description["config"])
        with torch.device("meta"):  # a description alone is to take no memory
            shapeless = AnySR(config).state_dict()
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} does not describe a network ({error!r}); write model files with anysr.save"
        ) from error
    expected = {name: tuple(tensor.shape) for name, tensor in shapeless.items()}
    check_fit(str(path), expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if whole := [n for n, t in shapeless.items() if t.is_floating_point() != tensors[n].is_floating_point()]:
        raise ValueError(f"the weights in {path} are of another kind: {whole[0]} is {tensors[whole[0]].dtype}")
    model = AnySR(config)
    if description.get("widen"):
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
    model.load_state_dict({name: tensors[name].reshape(shape) for name, shape in expected.items()}, assign=True)
    return model


def _halved(name: str, tensor: torch.Tensor) -> torch.Tensor:
    half = tensor.half() if tensor.dtype == torch.float32 else tensor
    if not torch.isfinite(half).all():
        raise ValueError(f"{name} holds values beyond float16's 65,504; save without half")
    return half
