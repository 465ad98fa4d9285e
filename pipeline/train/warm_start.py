"""Starting from the weights of another network."""

from __future__ import annotations

from pathlib import Path

import torch

import anysr
from anysr import AnySR
from anysr.interweave import Interweave
from pipeline.errors import FatalError, one_line

# sigmoid(5) = 0.993: a gate that the file knows nothing of lets everything pass.
_OPEN = 5.0


def warm_start(model: AnySR, path: Path) -> None:
    """Take over all weights of a model file or released checkpoint, in place.

    The file's network may lack feature interweaving, as a plain one does: the gates then start open,
    so that ``model`` answers nearly as the file's network did, at full width.

    Raises:
        FatalError: no such file, it cannot be read, or a weight has no place in ``model``.
    """
    try:
        source = anysr.load(path)
    except (OSError, ValueError) as error:
        raise FatalError(f"train.init_from: {one_line(error)}") from error
    given, wanted = source.state_dict(), model.state_dict()
    missing = [name for name in wanted if name not in given and ".gate." not in name]
    faults = [f"{name} is missing" for name in missing]
    faults += [f"{name} has no place" for name in given if name not in wanted]
    faults += [
        f"{name} is {tuple(given[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in given
        if name in wanted and given[name].shape != wanted[name].shape
    ]
    if source.config.colour != model.config.colour:
        faults.append(f"its colours are {source.config.colour}, not {model.config.colour}")
    if faults:
        more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise FatalError(
            f"train.init_from: {path} does not fit the network ({'; '.join(faults[:4])}{more}); give the file's "
            "encoder and decoder to model, or leave train.init_from out"
        )
    model.load_state_dict(given, strict=False)
    for name, module in model.named_modules():
        if isinstance(module, Interweave) and f"{name}.fc2.bias" not in given:
            _open(module)


@torch.no_grad()
def _open(gate: Interweave) -> None:
    assert gate.fc2.bias is not None
    gate.fc2.weight.zero_()
    gate.fc2.bias.fill_(_OPEN)
