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


@pytest.mark.parametrize("name", ["edsr-baseline-srno-anysr", "rcan-metasr-anysr", "edsr-baseline-arbsr"])
def test_gradients_can_be_differentiated_again(name: str) -> None:
    model, lr = tiny(name), torch.rand(1, 3, 6, 5, requires_grad=True)
    direction, full = torch.randn_like(lr), len(model.subnets) - 1

    def again(sr: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (first,) = torch.autograd.grad(sr.square().sum(), lr, create_graph=True)
        return torch.autograd.grad((first * direction).sum(), [lr, *model.parameters()], allow_unused=True)

    both = again(model(lr, (2.3, 1.7), subnet=full)), again(enlarge(model, lr, (2.3, 1.7), full))
    largest = max(float(theirs.abs().max()) for theirs in both[1] if theirs is not None)
    for ours, theirs in zip(*both, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or (ours - theirs).abs().max() <= 1e-5 * largest


def test_liif_refuses_to_be_differentiated_twice() -> None:
    model, lr = tiny("edsr-baseline-liif"), torch.rand(1, 3, 6, 5, requires_grad=True)
    with pytest.raises(ValueError, match=r"LIIF.s gradients cannot be differentiated again; .* create_graph=True"):
        torch.autograd.grad(model(lr, 2.3).square().sum(), lr, create_graph=True)
