"""What can be evaluated: networks, and bicubic enlargement as if it were one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import anysr
from anysr import AnySR
from anysr.metrics import round_to_8_bits
from anysr.serialization import list_pretrained, pretrained_file
from pipeline.data.degrade import RESIZERS
from pipeline.errors import UserError
from pipeline.evaluation.scales import Scale
from pipeline.registry.resolve import resolve_model
from pipeline.storage.places import named_place

Image = npt.NDArray[Any]
ANY_RESOURCE, ANY_SCALE, INTERPOLATION = "any-resource", "any-scale", "interpolation"


class Upscaler(Protocol):
    """Enlarges images.

    Attributes:
        name: as in rows.
        digest: changes whenever its answers may.
        kind: "any-resource" (several subnets), "any-scale", "fixed x2" or "interpolation".
        on_luma: scored on the 8-bit luma of images, where the protocol scores luma alone.
    """

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def on_luma(self) -> bool: ...

    def subnets(self, asked: Sequence[str]) -> tuple[str, ...]:
        """The subnets that ``auto``, ``full``, ``each`` or indices stand for."""
        ...

    def serves(self, scale: Scale) -> bool:
        """Whether it can enlarge by this scale at all."""
        ...

    def index(self, subnet: str, scale: Scale) -> str:
        """The subnet that answers; equal ones give equal answers."""
        ...

    def enlarge(self, lr: Image, scale: Scale, size: tuple[int, int], subnet: str) -> Tensor:
        """(h, w, C) of 0 ... 255 to (3, H, W) float32 in [0, 1], not clamped, on the CPU."""
        ...

    def on(self, device: torch.device) -> Upscaler:
        """The same, computing on a device."""
        ...


class _Named(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...


_AnyNamed = TypeVar("_AnyNamed", bound=_Named)


def subject_of(models: Sequence[_AnyNamed]) -> _AnyNamed | None:
    """The network that a report is about: the first by name with subnets, else the first by name; None without any."""
    networks = [model for model in models if model.kind != INTERPOLATION]
    return min(networks, key=lambda model: (model.kind != ANY_RESOURCE, model.name), default=None)


@dataclass(frozen=True)
class Bicubic:
    """Bicubic enlargement; it answers 8-bit pixels, as the programs do that published scores come from.

    Of MATLAB's kind that is grey: the classic scripts turn images to 8-bit luma first, and shrink and
    enlarge that in floats, which gives Set5 33.66 / 30.39 / 28.42 dB; resizing RGB gives 0.01 dB more.

    Attributes:
        resizer: "pil" or "matlab".
    """

    resizer: str
    name: str = "bicubic"
    kind: str = INTERPOLATION

    @property
    def digest(self) -> str:
        """Its kind: there are no weights."""
        return f"bicubic-{self.resizer}"

    @property
    def on_luma(self) -> bool:
        """See :class:`Upscaler`."""
        return self.resizer == "matlab"

    def subnets(self, asked: Sequence[str]) -> tuple[str, ...]:
        """The one there is."""
        return ("full",)

    def serves(self, scale: Scale) -> bool:
        """Always."""
        return True

    def index(self, subnet: str, scale: Scale) -> str:
        """The one there is."""
        return subnet

    def enlarge(self, lr: Image, scale: Scale, size: tuple[int, int], subnet: str) -> Tensor:
        """See :class:`Upscaler`."""
        return round_to_8_bits(to_tensor(RESIZERS[self.resizer](lr, size)).clamp(0, 1))

    def on(self, device: torch.device) -> Bicubic:
        """On the CPU wherever the networks run."""
        return self


@dataclass(frozen=True)
class Network:
    """A network with its subnets.

    Attributes:
        file: where it was read from.
    """

    model: AnySR
    name: str
    digest: str
    file: Path
    on_luma: bool = False

    @property
    def factor(self) -> int | None:
        """The only enlargement it makes; None for networks of any scale."""
        return self.model.config.fixed_factor

    @property
    def kind(self) -> str:
        """See :class:`Upscaler`."""
        if self.factor is not None:
            return f"fixed x{self.factor}"
        return ANY_RESOURCE if len(self.model.subnets) > 1 else ANY_SCALE

    def subnets(self, asked: Sequence[str]) -> tuple[str, ...]:
        """See :class:`Upscaler`; a network without subnets is scored as a whole, once.

        Raises:
            UserError: there is no such subnet.
        """
        indices = [str(subnet.index) for subnet in self.model.subnets]
        named = [name for text in asked for name in (indices if text == "each" else [text])]
        for name in named:
            if name not in ("auto", "full", *indices):
                raise UserError(f"subnets are auto, full, each or 0 … {len(indices) - 1} for {self.name}, got {name!r}")
        return tuple(dict.fromkeys(named)) if len(indices) > 1 else ("full",)

    def serves(self, scale: Scale) -> bool:
        """See :class:`Upscaler`."""
        return self.factor is None or scale.pair == (self.factor, self.factor)

    def index(self, subnet: str, scale: Scale) -> str:
        """See :class:`Upscaler`."""
        return str(self.model.subnet_for(_choice(subnet), max(scale.pair)).index)

    @torch.inference_mode()
    def enlarge(self, lr: Image, scale: Scale, size: tuple[int, int], subnet: str) -> Tensor:
        """See :class:`Upscaler`."""
        given = to_tensor(lr)[None].to(next(self.model.parameters()).device)
        sr: Tensor = self.model(given, scale.pair, size, subnet=_choice(subnet))
        return sr[0].float().cpu()

    def on(self, device: torch.device) -> Network:
        """See :class:`Upscaler`."""
        return replace(self, model=self.model.to(device))


def open_upscaler(text: str, lr_kind: str, tracking_uri: str | None = None) -> Upscaler:
    """``bicubic`` (of the kind that made the LR images), a model of a file or a registry, or a released checkpoint.

    Args:
        text: that word, a path, the name of a network in the box, or an MLflow URI such as
            ``models:/anysr@champion``; ``NAME=`` before it is what tables call it.
        lr_kind: "pil" or "matlab".
        tracking_uri: the registry.

    Raises:
        UserError: there is no such file or version.
        ValueError: the file is damaged or of no known kind.
    """
    name, source = named_place(text)
    if source == "bicubic":
        return Bicubic("matlab" if lr_kind == "matlab" else "pil", name or "bicubic")
    path = _file(source, tracking_uri)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return Network(anysr.load(path).eval(), name or _shown(source), digest, path)


def to_tensor(pixels: Image) -> Tensor:
    """(H, W, C) of 0 ... 255 to (3, H, W) float32 in [0, 1]; one channel is repeated."""
    channels = torch.from_numpy(np.array(pixels, dtype=np.float32)).permute(2, 0, 1) / 255
    return channels.expand(3, -1, -1)


def _file(source: str, tracking_uri: str | None) -> Path:
    if source in list_pretrained():
        return pretrained_file(source)
    try:
        return resolve_model(source, tracking_uri)
    except UserError as error:
        if source.startswith("models:/"):
            raise
        names = ", ".join(["bicubic", *list_pretrained()])
        raise UserError(f"{error}; a released checkpoint (.pth) is one too, or a name: {names}") from None


def _choice(subnet: str) -> Any:
    return int(subnet) if subnet.isdigit() else subnet


def _shown(source: str) -> str:
    """``models:/anysr@champion`` as it is; of a path its last part, or the run's folder for ``model.safetensors``."""
    if source.startswith("models:/"):
        return source.removeprefix("models:/")
    path = Path(source).expanduser().resolve()
    return path.parent.name if path.stem == "model" else path.name
