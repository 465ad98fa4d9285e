"""Baselines of one factor, and VDSR: exact in strips and collapsed, clear about what they cannot do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import anysr
from anysr.decoders import ecbsr, pixelshuffle, vdsr
from anysr.decoders.fixed_scale import in_strips, luma
from anysr.geometry import GridQueries
from tests.unit.test_zoo import tiny


@pytest.mark.parametrize("colours", [1, 3])
def test_collapsed_edge_blocks_answer_alike(colours: int) -> None:
    torch.manual_seed(0)
    block = ecbsr.EdgeBlock(5, 7)
    for p in block.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(2, 5, 6, 9)
    expanded, plain = block(x), block.collapse()
    assert isinstance(plain, torch.nn.Conv2d)
    assert (plain(x) - expanded).abs().max() < 1e-5 * expanded.abs().max()

    model = anysr.build("ecbsr-m10c32-x4", decoder={"colours": colours}).eval()
    for name, p in model.named_parameters():
        if "edge_" in name:
            torch.nn.init.normal_(p, std=0.05)
    lr, fused = torch.rand(2, 3, 11, 8), model.fuse()
    assert (fused(lr, 4) - model(lr, 4)).abs().max() < 1e-5
    assert all(isinstance(layer, torch.nn.Conv2d) for layer in fused.decoder.layers)
    assert fused.config.decoder.collapsed
    assert not model.config.decoder.collapsed


@pytest.mark.parametrize("name", ["edsr-baseline-x2", "edsr-baseline-x3", "rcan-x4", "ecbsr-m4c16-x2"])
def test_other_factors_are_refused(name: str) -> None:
    model = tiny(name)
    factor = model.config.fixed_factor
    assert model(torch.rand(1, 3, 5, 4), size=(5 * factor, 4 * factor)).shape[-2:] == (5 * factor, 4 * factor)
    with pytest.raises(ValueError, match=f"this network enlarges ×{factor} only.*use scale={factor}"):
        model(torch.rand(1, 3, 5, 4), 2.5)
    with pytest.raises(ValueError, match=f"this network enlarges ×{factor} only"):
        anysr.cost(model, (5, 4), (factor, factor + 1))


@pytest.mark.parametrize("name", ["edsr-baseline-x3", "edsr-baseline-x4", "vdsr", "ecbsr-m4c16-x2"])
def test_strips_do_not_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, lr = tiny(name), torch.rand(1, 3, 100, 5)
    scale = model.config.fixed_factor or 2.3
    expected = model(lr, scale)
    for module in (pixelshuffle, vdsr, ecbsr):
        monkeypatch.setattr(module, "_BLOCK_PIXELS", 1)
    assert torch.allclose(model(lr, scale), expected, atol=1e-6)


def test_a_strip_needs_its_halo() -> None:
    def whole(*args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.cat([strip for _, strip in in_strips(*args, **kwargs)], dim=2)

    conv, x = torch.nn.Conv2d(2, 2, 3, padding=1), torch.randn(1, 2, 9, 4)
    assert torch.allclose(whole(x, conv, 1, rows=2, halo=1), conv(x), atol=1e-6)
    assert not torch.allclose(whole(x, conv, 1, rows=2, halo=0), conv(x), atol=1e-3)


@pytest.mark.parametrize("name", ["edsr-baseline-x2", "vdsr", "ecbsr-m4c16-x2"])
def test_points_are_pixels_of_the_image(name: str) -> None:
    model, lr = tiny(name), torch.rand(2, 3, 6, 7)
    sr = model(lr, 2)
    coord = GridQueries((12, 14)).as_points(2, lr.device).coord
    assert torch.equal(model(lr, 2, coord=coord), sr.flatten(2).transpose(1, 2))
    corner = model(lr, 2, coord=torch.tensor([[[-1.0, -1.0], [1.0, 1.0]]]).expand(2, -1, -1))
    assert torch.equal(corner, torch.stack([sr[:, :, 0, 0], sr[:, :, -1, -1]], 1))


def test_luma_networks_leave_the_colour_differences_bicubic() -> None:
    lr = torch.rand(1, 3, 8, 9)
    for name in ("vdsr", "ecbsr-m4c16-x2"):
        sr, plain = tiny(name)(lr, 2), vdsr.bicubic(lr, (16, 18))
        assert ((sr - luma(sr)) - (plain - luma(plain))).abs().max() < 1e-5
        assert (luma(sr) - luma(plain)).abs().max() > 1e-3


def test_bicubic_is_pils() -> None:
    plane = torch.rand(9, 11)
    expected = np.asarray(Image.fromarray(plane.numpy(), mode="F").resize((25, 20), Image.Resampling.BICUBIC))
    assert np.abs(vdsr.bicubic(plane[None, None], (20, 25))[0, 0].numpy() - expected).max() < 1e-5


def test_whole_networks_take_no_other_encoder() -> None:
    for kind in ("vdsr", "ecbsr"):
        with pytest.raises(ValueError, match='set encoder kind "rgb"'):
            anysr.build({"decoder": {"kind": kind}})
    with pytest.raises(ValueError, match="set interweave to None"):
        anysr.build("vdsr", interweave={})
