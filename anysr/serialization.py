"""One ``.safetensors`` file holds a network and its configuration; nothing in it can run code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from anysr.checkpoints import is_pickle, load_released
from anysr.checkpoints.fit import check_fit
from anysr.config import ModelConfig
from anysr.model import AnySR

_FORMAT = "1"


def save(model: AnySR, path: str | os.PathLike[str]) -> None:
    """Write weights and configuration to ``path``, which appears complete or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"anysr_format": _FORMAT, "anysr_config": json.dumps(model.config.to_dict())}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        save_file(tensors, partial, metadata)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> AnySR:
    """Read a network in evaluation mode: a file of :func:`save`, or a released ``.pth`` checkpoint.

    Released are LIIF, SRNO, AnySR, LIIF's Meta-SR and ArbSR; the weights tell which.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short, is of no known kind, would run code, or its weights do not
            fit (missing, unexpected and mis-shaped keys are listed).
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no model file at {path}")
    model = load_released(path) if is_pickle(path) else _load_own(path)
    return model.to(device).eval()


def _load_own(path: str | os.PathLike[str]) -> AnySR:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); it may be cut short") from error
    if metadata.get("anysr_format") != _FORMAT:
        raise ValueError(
            f"{path} is not an AnySR model file of format {_FORMAT} (found {metadata.get('anysr_format')!r}); "
            "write model files with anysr.save"
        )
    try:
        model = AnySR(ModelConfig.from_dict(json.loads(metadata.get("anysr_config", ""))))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not describe a network that this version can build: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_fit(str(path), expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    model.load_state_dict({name: tensors[name].reshape(shape) for name, shape in expected.items()}, assign=True)
    return model
