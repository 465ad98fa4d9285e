"""A released ``.pth`` file to a network, without running anything that is in it."""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anysr.checkpoints.fit import Shape, check_fit, check_parts, check_tensors
from anysr.checkpoints.names import released_name
from anysr.checkpoints.shapes import FAMILIES, config_from_shapes, family_of
from anysr.colour import Affine, ColourConfig
from anysr.config import ModelConfig
from anysr.model import AnySR

_SHIFT = re.compile(r"encoder\.(sub|add)_mean\.(weight|bias)")
# What DataParallel and torch.compile put before each name.
_WRAPPING = re.compile(r"^((module|_orig_mod)\.)+")
# Where training codes keep the table of weights in what they save.
_TABLES = ("model", "state_dict", "model_state_dict", "params", "params_ema")


def is_pickle(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins as ``torch.save`` writes them, zipped or not, and not as safetensors do."""
    with Path(path).open("rb") as file:
        start = file.read(9)
    return start[:2] == b"PK" or (start[:1] == b"\x80" and start[8:9] != b"{")


def load_released(path: str | os.PathLike[str]) -> AnySR:
    """The network in a released file, in evaluation mode; family, depth and widths come from its weights.

    Raises:
        ValueError: the file is damaged, holds more than tensors and plain values, weights that are no dense
            and finite floating-point numbers, is of none of the families, or fits one only in part (missing,
            unexpected and mis-shaped keys are listed).
    """
    spec, given = _read(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    family = family_of(shapes)
    if family is None:
        some = ", ".join(list(given)[:3])
        raise ValueError(
            f"{path} is not a checkpoint of {', '.join(FAMILIES)}; it holds {len(given)} tensors: {some}, …"
        )
    check_tensors(str(path), given, Path(path).stat().st_size)
    try:
        config = config_from_shapes(family, shapes, spec)
        check_parts(config, len(given))
    except ValueError as error:
        raise ValueError(f"{path} ({family}) cannot be loaded: {error}") from error
    shifts = _shifts_applied(family, config)
    given = {name: tensor for name, tensor in given.items() if name in shifts or not _SHIFT.fullmatch(name)}
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in AnySR(config).state_dict().items()}
    theirs = {name: released_name(name, family, config) for name in expected}
    known = {theirs[name]: shape for name, shape in expected.items()} | shifts
    check_fit(f"{path} ({family})", known, {name: tuple(tensor.shape) for name, tensor in given.items()})
    model = AnySR(replace(config, colour=_colour(config.colour, given)))
    model.load_state_dict({name: _plain(given[theirs[name]], shape) for name, shape in expected.items()})
    return model.eval()


def _shifts_applied(family: str, config: ModelConfig) -> dict[str, Shape]:
    """Names and shapes of the mean shifts that the network applies; LIIF's and SRNO's files hold idle ones."""
    modules = ("sub_mean", "add_mean") if family == "ArbSR" else ("encoder.sub_mean",)
    if family != "ArbSR" and config.interweave is None:
        return {}
    return {f"{m}.{name}": shape for m in modules for name, shape in (("weight", (3, 3, 1, 1)), ("bias", (3,)))}


def _read(path: str | os.PathLike[str]) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """The model's description, empty where there is none, and its tensors by name."""
    try:
        with warnings.catch_warnings():
            # A refusal is one line: torch remarks on a foreign pickle before it refuses it.
            warnings.simplefilter("ignore")
            fault = _archive_fault(path)
            content = torch.load(path, map_location="cpu", weights_only=True) if fault is None else None
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is damaged or holds more than tensors and plain values; refused, and nothing in it was run"
        ) from error
    except Exception as error:  # a damaged file raises whatever its bytes happen to lead to
        raise ValueError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); it may be cut short"
        ) from error
    if fault is not None:
        raise ValueError(f"{path} {fault}")
    spec, table = _table(path, content)
    if not isinstance(table, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in table.items()
    ):
        raise ValueError(f"{path} is not a checkpoint of {', '.join(FAMILIES)}: it holds no table of tensors by name")
    tensors: dict[str, Tensor] = {}
    for name, tensor in table.items():
        plain = _WRAPPING.sub("", name)
        if plain in tensors:
            raise ValueError(
                f"{path} holds {plain} twice, at least once behind a prefix; save one of the two networks alone"
            )
        tensors[plain] = tensor
    return spec, tensors


def _table(path: str | os.PathLike[str], content: Any) -> tuple[Mapping[str, Any], Any]:
    """The model's description, and what should be its tensors by name."""
    if not isinstance(content, Mapping):
        return {}, content
    model = content.get("model")
    if isinstance(model, Mapping) and "sd" in model:
        return model, model["sd"]
    tables = [name for name in _TABLES if isinstance(content.get(name), Mapping)]
    if len(tables) > 1:
        raise ValueError(
            f"{path} holds several networks ({', '.join(tables)}); save the one you want alone, as with "
            f'torch.save(torch.load(path)["{tables[-1]}"], "alone.pth")'
        )
    return {}, content[tables[0]] if tables else content


def _archive_fault(path: str | os.PathLike[str]) -> str | None:
    """What is wrong with a zipped file's members, which torch takes as they are."""
    if not zipfile.is_zipfile(path):
        return None  # torch's old format, which has no checksums
    with zipfile.ZipFile(path) as archive:
        # Small files that unfold to more than memory holds are not even begun.
        if packed := [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]:
            return f"is not as torch.save writes files: its part {packed[0]} is compressed; write it again with it"
        damaged = archive.testzip()
    if damaged is None:
        return None
    return (
        f"is damaged: its part {damaged} does not match its checksum; fetch or copy it again, or if it was written "
        "without checksums (torch.serialization.set_crc32_options), write it with them"
    )


def _colour(published: ColourConfig, given: Mapping[str, Tensor]) -> ColourConfig:
    """The mean shifts as part of the configuration; training changes them, so the file's own are taken."""
    if "sub_mean.weight" in given:
        return ColourConfig(_rows(given, "sub_mean", before=255.0), _rows(given, "add_mean", after=1 / 255))
    if "encoder.sub_mean.weight" in given:
        return replace(published, to_encoder=_rows(given, "encoder.sub_mean"))
    return published


def _rows(given: Mapping[str, Tensor], name: str, before: float = 1.0, after: float = 1.0) -> Affine:
    weight, bias = given[f"{name}.weight"].double().view(3, 3), given[f"{name}.bias"].double().view(3, 1)
    rows: list[list[float]] = (torch.cat([weight * before, bias], dim=1) * after).tolist()
    first, second, third = ((r, g, b, constant) for r, g, b, constant in rows)
    return first, second, third


def _plain(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """In our shape, which may lack trailing ones, and single precision."""
    return tensor.reshape(shape).float() if tensor.is_floating_point() else tensor.reshape(shape)
