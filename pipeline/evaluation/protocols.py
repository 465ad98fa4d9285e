"""Named ways to score: which channel, how much border is cut, and whether pixels are 8-bit.

A score means nothing without them: on Set5 x2 they differ by tenths of a decibel. The papers define
their borders for whole, equal factors. For others we round a border up where the paper has the bare
scale, and cut each axis by its own factor. The HR image is cropped the same way under all of them
(``pipeline.data.degrade.pair_sizes``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch import Tensor

from anysr.metrics import Channel, psnr, ssim
from pipeline.errors import UserError
from pipeline.evaluation.scales import Scale

# From this PSNR on an image counts as returned exactly: float32's rounding of the colours leaves as much.
EXACT_DB = 120.0

_BORDERS = {
    "scale": math.ceil,
    "scale + 6": lambda s: math.ceil(s) + 6,
    "floor(scale) + 1": lambda s: math.floor(s) + 1,
    "ceil(scale)": math.ceil,
}


@dataclass(frozen=True)
class ScoringProtocol:
    """One way to score.

    Attributes:
        name: as in rows and on the command line.
        channel: BT.601 luma, or all of RGB.
        border_rule: pixels cut off each side of an axis, from that axis' scale; "scale" rounds up.
        rounded: RGB rounded to 8 bits before anything else; otherwise clamped floats.
    """

    name: str
    channel: Channel
    border_rule: Literal["scale", "scale + 6", "floor(scale) + 1", "ceil(scale)"]
    rounded: bool = False

    def border(self, scale: Scale) -> tuple[int, int]:
        """Pixels cut off (top and bottom, left and right)."""
        rule = _BORDERS[self.border_rule]
        return rule(scale.height), rule(scale.width)

    def psnr(self, sr_3HW: Tensor, hr_3HW: Tensor, scale: Scale) -> float:
        """PSNR in dB; see :func:`anysr.metrics.psnr`."""
        return psnr(sr_3HW, hr_3HW, self.border(scale), self.channel, rounded=self.rounded)

    def ssim(self, sr_3HW: Tensor, hr_3HW: Tensor, scale: Scale) -> float:
        """SSIM on the same channel and border; see :func:`anysr.metrics.ssim`."""
        return ssim(sr_3HW, hr_3HW, self.border(scale), self.channel, rounded=self.rounded)

    def __str__(self) -> str:
        pixels = "8-bit" if self.rounded else "float"
        return f"{self.name}: {self.channel.upper()}, border = {self.border_rule}, {pixels}"

    def words(self, metric: str, on_luma: bool) -> str:
        """How one score was made."""
        if metric == "lpips":
            return f"{self.name}: whole RGB image, {'8-bit' if self.rounded else 'float'}"
        return (
            f"{self.name}: Y of 8 bits before and after resizing, border = {self.border_rule}" if on_luma else str(self)
        )

    def of_grey(self) -> ScoringProtocol:
        """The same for images that are luma already."""
        return replace(self, channel="rgb")


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        ScoringProtocol("liif", "y", "scale"),
        ScoringProtocol("liif-div2k", "rgb", "scale + 6"),
        ScoringProtocol("anysr", "y", "floor(scale) + 1"),
        ScoringProtocol("arbsr", "y", "ceil(scale)", rounded=True),
        ScoringProtocol("basicsr", "y", "scale", rounded=True),
    )
}


def protocol_for(name: str, suite: str) -> ScoringProtocol:
    """The protocol called ``name``; LIIF scores DIV2K, told by the suite's name, in a way of its own.

    Raises:
        UserError: there is no such protocol.
    """
    if name not in PROTOCOLS:
        raise UserError(f"no protocol is called {name!r}; choose one of {', '.join(PROTOCOLS)}")
    on_div2k = name == "liif" and suite.lower().startswith("div2k")
    return PROTOCOLS["liif-div2k" if on_div2k else name]


def mean_score(metric: str, values: Sequence[float]) -> float:
    """Mean over images. PSNR counts up to :data:`EXACT_DB`, so that an exact image does not hide the others."""
    return float(np.mean(np.minimum(values, EXACT_DB) if metric == "psnr" else values))


def is_exact(metric: str, mean: float) -> bool:
    """Whether a mean is of images that all came back as they were."""
    return metric == "psnr" and mean >= EXACT_DB
