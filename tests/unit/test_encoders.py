"""Encoders against their textbook form: values and gradients, at every width, with and without gates."""

from __future__ import annotations

import pytest
import torch

from anysr.encoders import ENCODERS, EdsrConfig, EncoderConfig, RcanConfig, RdnConfig
from anysr.encoders.adaption import ScaleAdaption
from anysr.interweave import InterweaveConfig
from tests import textbook_encoders

CONFIGS: dict[str, EncoderConfig] = {
    "edsr": EdsrConfig(num_blocks=2, channels=16, residual_scale=0.1),
    "edsr-adapted": EdsrConfig(num_blocks=4, channels=16, adapt_every=2),
    "rdn-prefix": RdnConfig(num_blocks=2, num_convs=8, growth=12, channels=16),
    "rdn-own": RdnConfig(num_blocks=2, num_convs=8, growth=12, channels=16, columns="own"),
    "rdn-a": RdnConfig(num_blocks=2, num_convs=6, growth=8, channels=16, columns="own", adapt_every=2),
    "rcan": RcanConfig(num_groups=2, num_blocks=2, channels=16, reduction=4),
    "rcan-adapted": RcanConfig(num_groups=2, num_blocks=2, channels=16, reduction=4, adapt_every=1),
}
INTERWEAVE = {"plain": None, "woven": InterweaveConfig(interval=4, parity_sign=True)}


def make(name: str, interweave: str) -> torch.nn.Module:
    torch.manual_seed(0)
    encoder = ENCODERS[CONFIGS[name].kind][1](CONFIGS[name], INTERWEAVE[interweave]).eval()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return encoder


@pytest.mark.parametrize("interweave", INTERWEAVE)
@pytest.mark.parametrize("name", CONFIGS)
def test_values_and_gradients(name: str, interweave: str) -> None:
    encoder = make(name, interweave)
    full = encoder.config.slim_channels
    for width, scale in ((max(1, full // 3), (1.5, 1.5)), (full - 2, (2.3, 1.7)), (full, (3.7, 2.0))):
        results = []
        for encode in (encoder, lambda *args: textbook_encoders.encode(encoder, *args)):
            torch.manual_seed(1)
            image = torch.randn(2, 3, 6, 8, requires_grad=True)
            feat = encode(image, scale, width)
            encoder.zero_grad()
            (feat * torch.randn(feat.shape)).sum().backward()
            grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in encoder.parameters()]
            results.append([feat, image.grad, *grads])
        for ours, plain in zip(*results, strict=True):
            assert (ours - plain).abs().max() <= 1e-5 * max(1, plain.abs().max().item())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [(6, 8), (2, 2), (4, 40)])
def test_gates_in_the_weights(name: str, size: tuple[int, int]) -> None:
    """Without gradients the gate is folded into the weights, each image with its own."""
    encoder, image = make(name, "woven"), torch.randn(3, 3, *size)
    full = encoder.config.slim_channels
    with torch.no_grad():
        for width in (full // 2, full):
            plain = textbook_encoders.encode(encoder, image, (2.3, 1.7), width)
            assert (encoder(image, (2.3, 1.7), width) - plain).abs().max() < 1e-5 * max(1, plain.abs().max().item())


@pytest.mark.parametrize("columns", ["prefix", "own"])
def test_rdn_columns_differ_only_when_narrow(columns: str) -> None:
    encoder = make(f"rdn-{columns}", "woven")
    other = make("rdn-own" if columns == "prefix" else "rdn-prefix", "woven")
    other.load_state_dict(encoder.state_dict())
    image = torch.randn(1, 3, 5, 7)
    assert torch.allclose(encoder(image, (2.0, 2.0), 12), other(image, (2.0, 2.0), 12), atol=1e-6)
    assert not torch.allclose(encoder(image, (2.0, 2.0), 7), other(image, (2.0, 2.0), 7), atol=1e-4)


def test_adaption_takes_odd_sizes_without_changing_even_ones() -> None:
    torch.manual_seed(0)
    adaption = ScaleAdaption(8).eval()
    odd = torch.randn(2, 8, 7, 9)
    even = torch.nn.functional.pad(odd, (0, 1, 0, 1), mode="replicate")
    assert adaption(odd, (2.0, 3.0)).shape == odd.shape
    assert torch.equal(adaption.mask(odd), adaption.mask(even)[..., :7, :9])
    assert adaption(torch.randn(1, 8, 1, 1), (2.0, 2.0)).isfinite().all()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="num_convs at least 4"):
        RdnConfig(num_convs=3)
    with pytest.raises(ValueError, match='columns must be "prefix" or "own"'):
        RdnConfig(columns="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reduction"):
        RcanConfig(reduction=128)
