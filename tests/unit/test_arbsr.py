"""ArbSR's upsampler against its textbook form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anysr.decoders import ArbSr, ArbSrConfig, arbsr
from anysr.geometry import GridQueries, PointQueries, resolve_target
from tests import textbook_arbsr

SCALES = ((2.0, 2.0), (2.7, 2.7), (3.0, 1.2), (1.0, 6.0), (2.0**0.5, 3.1))


def make() -> tuple[ArbSr, Tensor]:
    torch.manual_seed(0)
    return ArbSr(ArbSrConfig(bottleneck=4), 8), torch.randn(2, 8, 5, 7)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("width", [1, 3, 4])
def test_values_and_gradients(scale: tuple[float, float], width: int) -> None:
    decoder, feat = make()
    size = resolve_target((5, 7), scale, None).size
    queries = GridQueries(size, scale)
    points = PointQueries(GridQueries(size).as_points(2, feat.device).coord, queries.cell, scale)
    ways = (
        lambda x: textbook_arbsr.arbsr(decoder, x, size, scale, width),
        lambda x: decoder(x, x, queries, width),
        lambda x: decoder(x, x, points, width).transpose(1, 2).reshape(2, 3, *size),
    )
    results = []
    for way in ways:
        given = feat.clone().requires_grad_()
        decoder.zero_grad()
        rgb = way(given)
        torch.manual_seed(1)
        (rgb * torch.randn(rgb.shape)).sum().backward()
        results.append([rgb, given.grad, *(p.grad.clone() for p in decoder.parameters())])
    for plain, grid, scattered in zip(*results, strict=True):
        allowed = 2e-5 * max(1, plain.abs().max().item())
        assert (grid - plain).abs().max() < allowed
        assert (scattered - plain).abs().max() < allowed


@pytest.mark.parametrize("block_pixels", [1, 40, 10**6])
@pytest.mark.parametrize("max_pairs", [1, 10**6])
def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch, block_pixels: int, max_pairs: int) -> None:
    decoder, feat = make()
    queries = GridQueries((13, 18), (2.6, 18 / 7))
    expected = decoder(feat, feat, queries, 4)
    monkeypatch.setattr(arbsr, "_BLOCK_PIXELS", block_pixels)
    monkeypatch.setattr(arbsr, "_MAX_PAIRS", max_pairs)
    assert torch.allclose(decoder(feat, feat, queries, 4), expected, atol=1e-5)


def test_single_pixels_are_answered() -> None:
    decoder, _ = make()
    for size in ((1, 1), (1, 4), (4, 1)):
        rgb = decoder(torch.randn(1, 8, *size), None, GridQueries((2 * size[0], 2 * size[1])), 4)
        assert rgb.isfinite().all()


def test_half_precision_keeps_places_exact() -> None:
    decoder, _ = make()
    feat = torch.randn(1, 8, 5, 300)
    queries = GridQueries((15, 900))
    single = decoder(feat, feat, queries, 4)
    half = decoder.bfloat16()(feat.bfloat16(), feat, queries, 4)
    assert (half - single).abs().mean() < 0.02 * single.abs().mean()
