"""Image to image against the textbook form: every encoder with every decoder, sizes and scales of all kinds."""

from __future__ import annotations

import pytest
import torch

from anysr.zoo import MODELS
from tests.textbook_networks import enlarge
from tests.unit.test_zoo import tiny

NAMES = [name for name, config in MODELS.items() if config.decoder.kind in ("liif", "srno", "metasr", "arbsr")]


@pytest.mark.parametrize("name", NAMES)
def test_image_to_image(name: str) -> None:
    model = tiny(name)
    for size, scale in (((7, 9), (1.2, 1.2)), ((6, 5), (2.7, 1.3)), ((5, 8), (3.3, 3.3)), ((2, 3), (6.0, 6.0))):
        lr = torch.rand(2, 3, *size)
        for subnet in range(len(model.subnets)):
            with torch.no_grad():
                sr = model(lr, scale, subnet=subnet)
                assert (sr - enlarge(model, lr, scale, subnet)).abs().max() < 1e-4
                assert (sr[1:] - model(lr[1:], scale, subnet=subnet)).abs().max() < 1e-5
