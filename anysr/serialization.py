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

_KEY, _FORMAT = "anysr", 1


def save(model: AnySR, path: str | os.PathLike[str]) -> None:
    """Write weights and configuration to ``path``, which appears complete or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # One key: the format does not keep the order of several, and equal networks are to be equal files.
    metadata = {_KEY: json.dumps({"format": _FORMAT, "config": model.config.to_dict()})}
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
    try:
        description = json.loads(metadata.get(_KEY, "{}"))
        if description.get("format") != _FORMAT:
            raise ValueError(
                f"{path} is not an AnySR model file of format {_FORMAT} (found {description.get('format')!r}); "
                "write model files with anysr.save"
            )
        model = AnySR(ModelConfig.from_dict(description["config"]))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} does not describe a network ({error!r}); write model files with anysr.save"
        ) from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_fit(str(path), expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    model.load_state_dict({name: tensors[name].reshape(shape) for name, shape in expected.items()}, assign=True)
    return model
