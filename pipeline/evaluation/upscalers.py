"""What can be evaluated: networks, and bicubic enlargement as if it were one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import anysr
from anysr import AnySR
from pipeline.data.degrade import RESIZERS
from pipeline.errors import UserError
from pipeline.evaluation.scales import Scale

Image = npt.NDArray[Any]


class Upscaler(Protocol):
    """Enlarges images.

    Attributes:
        name: as in rows.
        digest: changes whenever its answers may.
    """

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    def subnets(self, asked: Sequence[str]) -> tuple[str, ...]:
        """The subnets that ``auto``, ``full``, ``each`` or indices stand for."""
        ...

    def enlarge(self, lr: Image, scale: Scale, size: tuple[int, int], subnet: str) -> Tensor:
        """(h, w, 3) of 0 ... 255 to (3, H, W) float32 RGB in [0, 1], not clamped."""
        ...


@dataclass(frozen=True)
class Bicubic:
    """Bicubic enlargement.

    Attributes:
        kind: "pil" or "matlab".
    """

    kind: str
    name: str = "bicubic"

    @property
    def digest(self) -> str:
        """Its kind: there are no weights."""
        return f"bicubic-{self.kind}"

    def subnets(self, asked: Sequence[str]) -> tuple[str, ...]:
        """The one there is."""
        return ("full",)

    def enlarge(self, lr: Image, scale: Scale, size: tuple[int, int], subnet: str) -> Tensor:
        """See :class:`Upscaler`."""
        return to_tensor(RESIZERS[self.kind](lr, size))


@dataclass(frozen=True)
class Network:
    """A network with its subnets."""

    model: AnySR
    name: str
    digest: str

    def subnets(self, asked: Sequence[str]) -> tuple[str, ...]:
        """See :class:`Upscaler`.

        Raises:
            UserError: there is no such subnet.
        """
        indices = [str(subnet.index) for subnet in self.model.subnets]
        named = [name for text in asked for name in (indices if text == "each" else [text])]
        for name in named:
            if name not in ("auto", "full", *indices):
                raise UserError(f"subnets are auto, full, each or 0 … {len(indices) - 1} for {self.name}, got {name!r}")
        return tuple(dict.fromkeys(named))

    @torch.inference_mode()
    def enlarge(self, lr: Image, scale: Scale, size: tuple[int, int], subnet: str) -> Tensor:
        """See :class:`Upscaler`."""
        choice: Any = int(subnet) if subnet.isdigit() else subnet
        sr: Tensor = self.model(to_tensor(lr)[None], scale.pair, size, subnet=choice)
        return sr[0].float()


def open_upscaler(text: str, lr_kind: str) -> Upscaler:
    """``bicubic`` (of the kind that made the LR images), a model file, or a released checkpoint.

    Raises:
        UserError: there is no such file.
        ValueError: the file is damaged or of no known kind.
    """
    if text == "bicubic":
        return Bicubic("matlab" if lr_kind == "matlab" else "pil")
    path = Path(text).expanduser()
    if not path.is_file():
        raise UserError(f"no model at {text}; give a model file, a released checkpoint (.pth), or the word bicubic")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return Network(anysr.load(path), path.name, digest)


def to_tensor(pixels: Image) -> Tensor:
    """(H, W, 3) of 0 ... 255 to (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(pixels, dtype=np.float32)).permute(2, 0, 1) / 255
