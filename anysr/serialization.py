"""One ``.safetensors`` file holds a network and its configuration; nothing in it can run code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

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
    """Read a network written by :func:`save`, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short, is not one of ours, or its weights do not fit its
            configuration (missing, unexpected and mis-shaped keys are listed).
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no model file at {path}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); it may be cut short") from error
    description = json.loads(metadata.get(_KEY, "{}"))
    if description.get("format") != _FORMAT:
        raise ValueError(
            f"{path} is not an AnySR model file of format {_FORMAT} (found {description.get('format')!r}); "
            "write model files with anysr.save"
        )
    model = AnySR(ModelConfig.from_dict(description["config"]))
    _check_fit(path, model, tensors)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def _check_fit(path: str | os.PathLike[str], model: AnySR, tensors: dict[str, torch.Tensor]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    faults = [f"missing {n} {s}" for n, s in expected.items() if n not in given]
    faults += [f"unexpected {n} {s}" for n, s in given.items() if n not in expected]
    faults += [f"{n} is {given[n]}, not {s}" for n, s in expected.items() if n in given and given[n] != s]
    if faults:
        raise ValueError(f"the weights in {path} do not fit its configuration: " + "; ".join(faults))
