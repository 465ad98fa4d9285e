"""Starting from the weights of another network."""

from __future__ import annotations

from pathlib import Path

import torch

import anysr
from anysr import AnySR
from anysr.interweave import Interweave
from pipeline.config_file import changed_keys
from pipeline.errors import FatalError, UserError, one_line
from pipeline.storage.cache import local_copy
from pipeline.storage.places import Place

# sigmoid(5) = 0.993: a gate that the file knows nothing of lets everything pass.
_OPEN = 5.0
_COMPARED = ("encoder", "decoder", "interweave")
_IN_SHAPES = {"encoder.block_channels", "encoder.narrow_growth"}  # null is a width, too: compared as shapes
# Near ×1 and in narrow networks alone: what the full network makes of the weights elsewhere stays.
_MAY_CHANGE = {"decoder.fade_in", "encoder.columns"}


def warm_start(model: AnySR, place: Place, cache: Path | None = None, cache_gb: float | None = None) -> list[str]:
    """Take over all weights of a model file or released checkpoint, in place; returns what differs all the same.

    ``cache`` and ``cache_gb`` are for a copy of a file on S3, see :func:`pipeline.storage.cache.local_copy`.

    The file's network may lack feature interweaving, as a plain one does: the gates then start open,
    so that ``model`` answers nearly as the file's network did, at full width. It may have other scale
    groups, another ``fade_in`` or other ``columns``.

    Raises:
        FatalError: no such file, it cannot be read, a weight has no place in ``model``, or ``model`` would
            make something else of the weights.
    """
    try:
        source = anysr.load(local_copy(place, cache_gb, cache))
    except (UserError, OSError, ValueError) as error:
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
    changes = [] if faults else _changes(source, model)
    faults += [change for change in changes if change.partition(":")[0] not in _MAY_CHANGE]
    if faults:
        more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise FatalError(
            f"train.init_from: {place} does not fit the network ({'; '.join(faults[:4])}{more}); give the file's "
            "encoder, decoder and interweave to model, or leave train.init_from out"
        )
    model.load_state_dict(given, strict=False)
    for name, module in model.named_modules():
        if isinstance(module, Interweave) and f"{name}.fc2.bias" not in given:
            _open(module)
    return changes


def _changes(source: AnySR, model: AnySR) -> list[str]:
    """What encoder, decoder and interweaving do otherwise than in the file, as ``key: old -> new``."""
    before, after = ({key: one.config.to_dict()[key] for key in _COMPARED} for one in (source, model))
    if before["interweave"] is None:  # added, see above
        del before["interweave"], after["interweave"]
    return [change for change in changed_keys(before, after) if change.partition(":")[0] not in _IN_SHAPES]


@torch.no_grad()
def _open(gate: Interweave) -> None:
    assert gate.fc2.bias is not None
    gate.fc2.weight.zero_()
    gate.fc2.bias.fill_(_OPEN)
