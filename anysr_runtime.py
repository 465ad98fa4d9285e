"""Enlarge images with a network that ``anysr export`` wrote. Needs onnxruntime and numpy, nothing else.

    from anysr_runtime import Upscaler

    upscaler = Upscaler("exported/")                   # a folder, or one file of it
    large = upscaler.enlarge(image, scale=2.37)        # (h, w, 3) uint8, uint16 or float in [0, 1]; the same comes back
    large = upscaler.enlarge(image, scale=(2, 3.1))    # height times 2, width times 3.1
    large = upscaler.enlarge(image, size=(1080, 1920)) # exactly this (H, W)
    for top, rows in upscaler.strips(image, scale=4):  # some rows at a time, float32
        ...

This file may be copied to wherever it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime

_FORMAT = 1
_AGAIN = "write it again with anysr export"
# What floating-point images may hold: a little more than [0, 1], as resamplers leave it, and never 0 … 255.
_LOWEST, _HIGHEST = -0.5, 1.5
# Of scales and of sides in pixels.
_LARGEST = 10**9
# Output pixels a strip: bounds the memory beside the features.
_STRIP_PIXELS = 2**17

Image = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Subnet:
    """One of the networks that an export holds.

    Attributes:
        index: its number in the network.
        scales: [low, high) of the larger factor that it serves.
        path: its file.
        about: what else its file says.
    """

    index: int
    scales: tuple[float, float]
    path: Path
    about: dict[str, Any]


class Upscaler:
    """Chooses the subnet by scale, as the network itself does, and enlarges with it."""

    def __init__(
        self, path: str | Path, *, threads: int = 0, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> None:
        """Read what there is; a subnet is loaded when it is first needed.

        Args:
            path: a folder that ``anysr export`` wrote, or a single file, which then serves every scale.
            threads: of the processor; 0 leaves it to onnxruntime.
            providers: onnxruntime's execution providers, best first.

        Raises:
            ValueError: it is no export of a known format.
            OSError: it cannot be read.
        """
        self._threads, self._providers = threads, list(providers)
        self._sessions: dict[Path, onnxruntime.InferenceSession] = {}
        self.subnets = self._read(Path(path))

    def enlarge(
        self,
        image: npt.ArrayLike,
        scale: float | Sequence[float] | None = None,
        size: Sequence[int] | None = None,
        *,
        subnet: int | Literal["auto", "full"] = "auto",
    ) -> Image:
        """The whole enlargement, in the type and with the channels of ``image``.

        Args:
            image: (h, w, 3) RGB, or (h, w) or (h, w, 1) grey; uint8, uint16, or floating point in [0, 1]; an
                array, or what numpy makes one of.
            scale: factor, or (s_h, s_w); every value at least 1.
            size: (H, W). Alone it sets the scale; beside ``scale`` it is the grid.
            subnet: "auto" chooses by the larger factor, an index by hand, "full" the widest.

        Raises:
            ValueError: a wrong image, scale, size or subnet.
        """
        image = np.asarray(image)
        grey = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1)
        enlarged: Image | None = None
        for top, rows in self.strips(image, scale, size, subnet=subnet):
            if grey:
                rows = rows.mean(axis=2, keepdims=image.ndim == 3)
            if enlarged is None:
                enlarged = np.empty((self._size(image, scale, size)[0][0], *rows.shape[1:]), image.dtype)
            enlarged[top : top + len(rows)] = _as_type(rows, image.dtype)
        assert enlarged is not None
        return enlarged

    def strips(
        self,
        image: npt.ArrayLike,
        scale: float | Sequence[float] | None = None,
        size: Sequence[int] | None = None,
        *,
        subnet: int | Literal["auto", "full"] = "auto",
    ) -> Iterator[tuple[int, Image]]:
        """The enlargement some rows at a time; arguments as for :meth:`enlarge`.

        Yields:
            The first row's number and (rows, W, 3) float32 RGB, not clamped to [0, 1].
        """
        image = np.asarray(image)
        lr = _as_lr(image)
        (height, width), pair = self._size(image, scale, size)
        chosen = self._choose(subnet, max(pair))
        session = self._session(chosen.path)
        known = {value.name for value in session.get_inputs() + session.get_overridable_initializers()}
        fixed = {"scale": np.array(pair, np.float64), "size": np.array((height, width), np.int64)}
        given = {key: value for key, value in fixed.items() if key in known}
        step = max(1, _STRIP_PIXELS // width)
        # The first strip comes with the features, from which all others are made.
        sr, *prepared = session.run(None, {**given, "lr": lr, "rows": np.array((0, step), np.int64)})
        yield 0, sr[0].transpose(1, 2, 0)
        names = [f"{value.name}_given" for value in session.get_outputs()[1:]]
        ready = dict(zip(names, prepared, strict=True))
        for top in range(step, height, step):
            rows = np.array((top, min(height, top + step)), np.int64)
            window = _window(lr, ready, rows, height, chosen.about["reach"])
            (sr,) = session.run(["sr"], {**given, **window, "rows": rows})
            yield top, sr[0].transpose(1, 2, 0)

    def _choose(self, subnet: int | str, largest_scale: float) -> Subnet:
        if subnet == "auto":
            return next((s for s in self.subnets if largest_scale < s.scales[1]), self.subnets[-1])
        if subnet == "full":
            return self.subnets[-1]
        found = [s for s in self.subnets if s.index == subnet]
        if not found:
            there = ", ".join(str(s.index) for s in self.subnets)
            raise ValueError(f'subnet must be "auto", "full" or one of {there}, got {subnet!r}')
        return found[0]

    def _size(
        self, image: Image, scale: float | Sequence[float] | None, size: Sequence[int] | None
    ) -> tuple[tuple[int, int], tuple[float, float]]:
        """The grid and the scale pair, as the network resolves them."""
        height, width = image.shape[:2]
        if scale is None and size is None:
            raise ValueError("give scale=2.37, scale=(s_h, s_w), size=(H, W), or both; got neither")
        sides = None if size is None else _two(size, "size must be (H, W)")
        if scale is not None:
            pair = _two(scale if np.ndim(scale) else (scale, scale), "scale must be a number or (s_h, s_w)")
        else:
            assert sides is not None
            pair = (sides[0] / height, sides[1] / width)
        if sides is not None and not all(1 <= side <= _LARGEST and side.is_integer() for side in sides):
            raise ValueError(f"size must be (H, W), two whole numbers from 1 to {_LARGEST:,}, got {size!r}")
        if not all(1 <= s <= _LARGEST for s in pair):
            raise ValueError(
                f"scale must be at least 1 and at most {_LARGEST:,}, got {pair}; to shrink an image use a resampler"
            )
        wanted = (height * pair[0], width * pair[1]) if sides is None else sides
        grid = (round(wanted[0]), round(wanted[1]))
        factor = self.subnets[0].about["factor"]
        if factor is not None and grid != (height * factor, width * factor):
            raise ValueError(f"this network enlarges x{factor} only, got scale={scale!r}, size={size!r}")
        return grid, pair

    def _session(self, path: Path) -> onnxruntime.InferenceSession:
        if path not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = self._threads, 3
            try:
                self._sessions[path] = onnxruntime.InferenceSession(str(path), options, providers=self._providers)
            except Exception as error:  # onnxruntime has a dozen of its own
                raise ValueError(f"onnxruntime cannot load {path}: {str(error).splitlines()[0]}") from error
        return self._sessions[path]

    def _read(self, path: Path) -> tuple[Subnet, ...]:
        if path.is_dir():
            if not (path / "manifest.json").is_file():
                raise FileNotFoundError(f"no manifest.json in {path}: export every subnet into it, or name one file")
            about = _parsed((path / "manifest.json").read_bytes(), path)
        else:
            if not path.is_file():
                raise FileNotFoundError(f"no file and no folder at {path}")
            about = _parsed(self._session(path).get_modelmeta().custom_metadata_map.get("anysr", "{}"), path)
            about = {"subnets": [{**about, "file": path.name}]}
        folder = path if path.is_dir() else path.parent
        try:
            subnets = tuple(_subnet(described, folder) for described in about["subnets"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not describe a network ({error!r}); {_AGAIN}") from error
        if not subnets:
            raise ValueError(f"{path} describes no network; {_AGAIN}")
        return subnets


def _two(values: Any, form: str) -> tuple[float, float]:
    try:
        first, second = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{form}, got {values!r}") from None
    return first, second


def _subnet(about: dict[str, Any], folder: Path) -> Subnet:
    low, high = about["scales"]
    if missing := {"factor", "reach"} - about.keys():
        raise KeyError(*missing)
    return Subnet(int(about["subnet"]), (float(low), float(high)), folder / about["file"], about)


def _parsed(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} does not describe a network ({error}); {_AGAIN}") from error
    found = values.get("format") if isinstance(values, dict) else None
    if found != _FORMAT:
        raise ValueError(f"{path} is no export of format {_FORMAT}, found {found!r}; {_AGAIN}")
    return dict(values)


def _window(lr: Image, ready: dict[str, Image], rows: Image, height: int, reach: int | None) -> dict[str, Image]:
    """What a graph needs for these rows: of image and features only what they read."""
    if reach is None:
        return {"lr": lr, **ready}
    lr_height = lr.shape[2]
    first = max(0, int(rows[0]) * lr_height // height - reach)
    last = min(lr_height, -(-int(rows[1]) * lr_height // height) + reach)
    features = np.ascontiguousarray(ready["features_given"][:, :, first:last])
    window = np.array((first, lr_height), np.int64)
    return {**ready, "lr": np.ascontiguousarray(lr[:, :, first:last]), "features_given": features, "window": window}


def _as_lr(image: Image) -> Image:
    """(1, 3, h, w) float32 in [0, 1]."""
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise ValueError(
            f"an image is (h, w, 3) RGB, (h, w) or (h, w, 1), got shape {image.shape}; enlarge alpha as grey"
        )
    if image.dtype not in (np.uint8, np.uint16) and image.dtype.kind != "f":
        raise ValueError(f"an image is uint8, uint16, or floating point in [0, 1], got {image.dtype}")
    if image.dtype.kind == "f" and not (image.min() >= _LOWEST and image.max() <= _HIGHEST):  # nor with NaN in it
        raise ValueError(
            f"a floating-point image is in [0, 1], got {image.min():g} … {image.max():g}; divide by its white, "
            "or give uint8 or uint16"
        )
    values = image.astype(np.float32)
    if image.dtype.kind == "u":
        values /= np.float32(np.iinfo(image.dtype).max)
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)).transpose(2, 0, 1)[None])


def _as_type(rows: Image, dtype: np.dtype[Any]) -> Image:
    """Clamped to [0, 1], and whole levels where the type has them."""
    clamped = rows.clip(0, 1)
    return np.rint(clamped * np.iinfo(dtype).max).astype(dtype) if dtype.kind == "u" else clamped.astype(dtype)
