"""One score: an image shrunk, enlarged again and compared. Training's validation and evaluations share it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pipeline.data.degrade import RESIZERS, lr_hr_pair
from pipeline.evaluation.perceptual import LpipsAlex
from pipeline.evaluation.protocols import ScoringProtocol
from pipeline.evaluation.scales import Scale
from pipeline.evaluation.upscalers import Image, to_tensor


def shrunk(pixels: Image, scale: Scale, resizer: str) -> tuple[Image, Tensor]:
    """An image as LR of 0 ... 255, (h, w, C), and the HR image that this shows, (3, H, W) in [0, 1].

    Args:
        pixels: (H, W, C) of 0 ... 255.
        scale: how much smaller the LR image is.
        resizer: "pil" or "matlab".
    """
    lr, hr = lr_hr_pair(pixels, scale.pair, RESIZERS[resizer])
    return lr, to_tensor(hr)


def value(
    metric: str, sr: Tensor, hr: Tensor, scale: Scale, protocol: ScoringProtocol, lpips: LpipsAlex | None = None
) -> float:
    """The score of an answer, (3, H, W) like ``hr``: "psnr" in dB, "ssim" or "lpips".

    Raises:
        ValueError: the protocol's border leaves too little of the image.
    """
    if metric == "lpips":
        assert lpips is not None
        return lpips(sr, hr, rounded=protocol.rounded)
    return protocol.psnr(sr, hr, scale) if metric == "psnr" else protocol.ssim(sr, hr, scale)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """One thread and full float32: a score then is the same in any process of any worker."""
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.deterministic
    torch.set_num_threads(1)
    cudnn.allow_tf32, cudnn.deterministic = False, True
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.allow_tf32, cudnn.deterministic = before
