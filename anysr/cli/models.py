"""Models by what a user types: nothing, a name in the box, a file, or an address that an extra can fetch."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import torch

import anysr
from anysr.amounts import parse_whole
from anysr.cli import one_line, shown
from anysr.files import is_same_file
from anysr.model import SubnetChoice
from anysr.serialization import pretrained_file

# What turns models:/... or s3://... into a local file lies outside this package, under the scheme's
# name in this group of entry points: a function from the address to the path of a file.
_RESOLVERS = "anysr.model_schemes"
_EXTRA = "anysr[train]"
_SCHEME = re.compile(r"([a-z][a-z0-9+]+):/", re.IGNORECASE)
_PREFERRED = "anysr-base"
_RUNS = "runs/*/model.safetensors"

MODEL_HELP = (
    "model file (.safetensors, or a released .pth), the name of a network in the box, models:/NAME@ALIAS of an MLflow "
    "registry, or s3://...; by default the network in the box, else the newest runs/*/model.safetensors here"
)


@dataclass(frozen=True)
class OpenedModel:
    """A network and where it came from.

    Attributes:
        model: ready to use, on the CPU.
        name: for people.
        path: its file.
        digest: SHA-256 of the file.
    """

    model: anysr.AnySR
    name: str
    path: Path
    digest: str


def open_model(text: str | None) -> OpenedModel:
    """The model that a user means.

    Raises:
        ValueError: there is none, the address cannot be fetched, or the file is no model.
        OSError: the file cannot be read.
    """
    path = find_model(text)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return OpenedModel(anysr.load(path), text or shown(path), path, digest)


def find_model(text: str | None) -> Path:
    """The file of the model that a user means; see :func:`open_model`."""
    if text is None:
        return _default()
    path = Path(text).expanduser()
    if path.is_file():
        return path
    if text in anysr.list_pretrained():
        return pretrained_file(text)
    scheme = _SCHEME.match(text)
    if scheme is not None:
        return _fetched(text, scheme[1].lower())
    in_the_box = ", ".join(anysr.list_pretrained())
    raise ValueError(f"no model file at {shown(text)}" + (f"; in the box: {in_the_box}" if in_the_box else ""))


def check_keeps_model(model: Path, target: Path) -> None:
    """Raise ValueError where what is written to ``target`` would replace the file of the model that is read."""
    if is_same_file(model, target):
        raise ValueError(f"{shown(target)} would replace the model that is read; choose another output")


def open_device(text: str | None) -> torch.device:
    """The named device; by default the first CUDA device, else the CPU.

    Raises:
        ValueError: it is not there.
    """
    name = text or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        reason = one_line(error).split(". ")[0][:150]
        raise ValueError(f"--device {name} cannot be used here ({reason}); cpu always can") from None
    return device


def parse_subnet(text: str) -> SubnetChoice:
    """``auto``, ``full`` or an index."""
    if text in ("auto", "full"):
        return "full" if text == "full" else "auto"
    index = parse_whole(text)
    if index is None:
        raise ValueError(f"a subnet is auto, full, or an index that anysr info lists, got {text[:40]!r}")
    return index


def _default() -> Path:
    names = anysr.list_pretrained()
    if names:
        return pretrained_file(_PREFERRED if _PREFERRED in names else names[0])
    runs = sorted(Path().glob(_RUNS), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise ValueError(f"no model: there is no {_RUNS} here; train one with make train, or name one with --model")
    return runs[-1]


def _fetched(address: str, scheme: str) -> Path:
    found = {point.name: point for point in entry_points(group=_RESOLVERS)}
    if scheme not in found:
        known = ", ".join(f"{name}:" for name in sorted(found)) or "none is installed"
        raise ValueError(
            f"cannot fetch {shown(address)}: addresses need pip install '{_EXTRA}' (known here: {known}); "
            "or give the path of a model file"
        )
    try:
        return Path(found[scheme].load()(address))
    except ImportError as error:
        raise ValueError(
            f"fetching {shown(address)} needs pip install '{_EXTRA}' ({one_line(error)}); or give a file"
        ) from None
    except Exception as error:  # whatever the registry's or the store's client raises
        raise ValueError(one_line(error)) from error
