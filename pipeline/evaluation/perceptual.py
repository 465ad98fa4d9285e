"""LPIPS with AlexNet (Zhang et al., CVPR 2018), through the ``lpips`` package and without a download."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path

import torch
from torch import Tensor

from anysr.files import cache_root
from anysr.metrics import round_to_8_bits
from pipeline.errors import UserError, one_line

_FILE = "lpips_alexnet_features_fp16.pth"
_PUBLISHED = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"  # with a classifier, which is not used
_KEYS = {f"features.{layer}.{kind}" for layer in (0, 3, 6, 8, 10) for kind in ("weight", "bias")}


def default_weights() -> Path:
    """Where the trunk's weights are looked for when no file is named."""
    return cache_root() / _FILE


class LpipsAlex:
    """LPIPS on whole RGB images: lower is better.

    Args:
        weights: AlexNet's convolutions under torchvision's names (``features.0.weight`` ...), alone or in its
            whole published file, which the ``lpips`` package takes them from; None is :func:`default_weights`.

    Raises:
        UserError: the file is missing or holds something else, or the package is missing.
    """

    def __init__(self, weights: Path | None = None) -> None:
        trunk = _read(weights or default_weights())
        try:
            import lpips
        except ImportError as error:
            raise UserError(f"LPIPS needs the lpips package ({one_line(error)}); pip install 'anysr[train]'") from None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's remarks on lpips' older way of asking
            self._net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
        own = self._net.net.state_dict()
        given = {name: trunk[re.sub(r"^slice\d+\.", "features.", name)].to(own[name].dtype) for name in own}
        self._net.net.load_state_dict(given)

    @torch.inference_mode()
    def __call__(self, sr_3HW: Tensor, hr_3HW: Tensor, *, rounded: bool = False) -> float:
        """Distance of two images of RGB in [0, 1], clamped and, if asked, rounded to 8 bits."""
        images = [image.float().clamp(0, 1) for image in (sr_3HW, hr_3HW)]
        if rounded:
            images = [round_to_8_bits(image) for image in images]
        sr, hr = (image[None] * 2 - 1 for image in images)
        return float(self._net(sr, hr))


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(
            f"LPIPS needs AlexNet's convolutions, and there is no file {path}; put torchvision's {_PUBLISHED} there, "
            "or name it with --lpips-weights"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is not a readable file of weights ({type(error).__name__}); fetch it again") from None
    if not isinstance(content, dict) or any(key not in content for key in _KEYS):
        raise UserError(f"{path} does not hold AlexNet's trunk; it needs the keys {', '.join(sorted(_KEYS))}")
    return content
