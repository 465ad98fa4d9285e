"""A picture as the RGB or grey planes that go through the network, and back.

The network knows three colours. Grey goes in as three equal ones and comes out as their mean; so
does alpha. The inks of CMYK go in as they are, as light: cyan, magenta and yellow together, black as
grey. No conversion of colours, so that the picture's profile stays true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from anysr.imaging.picture import Picture, Pixels
from anysr.upscaling.alpha import fill_hidden


@dataclass(frozen=True)
class Plane:
    """What one pass through the network enlarges.

    Attributes:
        values: (h, w, 1 or 3).
        alpha: (h, w) where some of the colours are not to be seen.
    """

    values: Pixels
    alpha: Pixels | None = None

    def to_tensor(self, device: torch.device) -> Tensor:
        """(1, 3, h, w) float32 in [0, 1]."""
        colour = _tensor(self.values, device)
        if self.alpha is not None:
            colour = fill_hidden(colour, _tensor(self.alpha[..., None], device))
        return colour.expand(3, -1, -1)[None].contiguous()

    def to_pixels(self, rgb_3rW: Tensor) -> Pixels:
        """(rows, W, 1 or 3) in the type of ``values``, rounded, from rows of an answer in [0, 1]."""
        answer = rgb_3rW if self.values.shape[2] == 3 else rgb_3rW.mean(dim=0, keepdim=True)
        levels = (answer.clamp(0, 1) * int(np.iinfo(self.values.dtype).max)).round()
        return levels.permute(1, 2, 0).cpu().numpy().astype(self.values.dtype)


def planes_of(picture: Picture) -> list[Plane]:
    """The planes of a picture; alpha that is the same everywhere is none, and hides no colour from another."""
    colour, alpha = picture.colour, picture.alpha
    if alpha is not None and _is_constant(alpha):
        alpha = None
    if colour.shape[2] == 4:
        light = picture.peak - colour
        planes = [Plane(light[..., :3], alpha), Plane(light[..., 3:], alpha)]
    else:
        planes = [Plane(colour, alpha)]
    if alpha is not None:
        planes.append(Plane(alpha[..., None]))
    return planes


def joined(picture: Picture, answers: Sequence[Pixels]) -> Picture:
    """The enlarged picture from its enlarged planes, in the order of :func:`planes_of`."""
    alpha = picture.alpha
    colour = answers[0]
    if picture.colour.shape[2] == 4:
        colour = picture.peak - np.concatenate(answers[:2], axis=2)
    if alpha is not None:
        constant = _is_constant(alpha)
        alpha = np.full(colour.shape[:2], alpha.flat[0], alpha.dtype) if constant else answers[-1][..., 0]
    return replace(picture, colour=colour, alpha=alpha)


def _is_constant(values: Pixels) -> bool:
    return bool((values == values.flat[0]).all())


def _tensor(values_hwC: Pixels, device: torch.device) -> Tensor:
    peak = int(np.iinfo(values_hwC.dtype).max)
    return torch.from_numpy(values_hwC.astype(np.float32)).to(device).permute(2, 0, 1) / peak
