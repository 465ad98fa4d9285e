"""An image in tiles is the image: every encoder with every decoder, whatever the tile."""

from __future__ import annotations

import importlib
import itertools
import weakref

import numpy as np
import pytest
import torch

import anysr
from anysr.encoders import tiles
from anysr.encoders.tiles import resolve_tile
from anysr.zoo import MODELS
from tests.unit.test_zoo import tiny

# RDN-A and the wide EDSR are RDN and EDSR at other sizes.
NAMES = [
    name for name in MODELS if not name.startswith(("rdn-a-", "edsr-liif", "edsr-srno", "edsr-metasr", "edsr-arbsr"))
]


@pytest.mark.parametrize("name", NAMES)
def test_tiles_do_not_show(name: str) -> None:
    model = tiny(name)
    sizes, scales = ((23, 31), (14, 9)), ((1.7, 1.2), (3.3, 2.6))
    for (size, tile), scale in zip(itertools.product(sizes, (7, (16, 5), 64)), itertools.cycle(scales)):
        lr = torch.rand(2, 3, *size)
        asked = model.config.fixed_factor or scale
        with torch.no_grad():
            whole = model(lr, asked, tile=None)
            assert (model(lr, asked, tile=tile) - whole).abs().max() < 1e-5
            for rows in model.strips(lr, asked, tile=tile):
                expected = whole[rows.image, :, rows.top : rows.top + rows.rgb.shape[1]]
                assert (rows.rgb - expected).abs().max() < 1e-5


@pytest.mark.parametrize("encoder", ["edsr-baseline", "rdn", "rcan"])
def test_narrow_subnets_own_columns_and_smaller_networks(encoder: str) -> None:
    columns = {"columns": "own"} if encoder == "rdn" else {}
    model = anysr.build(f"{encoder}-liif-anysr", encoder=columns | {"num_blocks": 1}, decoder={"hidden": 16}).eval()
    lr = torch.rand(1, 3, 19, 13)
    with torch.no_grad():
        for subnet in range(len(model.subnets)):
            whole = model(lr, 2, subnet=subnet, tile=None)
            assert (model(lr, 2, subnet=subnet, tile=5) - whole).abs().max() < 1e-5
            assert (model.extract(subnet)(lr, 2, tile=5) - whole).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["edsr-baseline-srno-anysr", "rdn-metasr-anysr", "rcan-arbsr-anysr"])
@pytest.mark.parametrize("size", [(1, 9), (9, 1), (1, 1), (2, 3)])
def test_images_of_hardly_a_pixel(name: str, size: tuple[int, int]) -> None:
    model, lr = tiny(name), torch.rand(1, 3, *size)
    with torch.no_grad():
        assert (model(lr, (1.3, 5.9), tile=2) - model(lr, (1.3, 5.9), tile=None)).abs().max() < 1e-5
        assert (model(lr, 6, tile=(1, 3)) - model(lr, 6, tile=None)).abs().max() < 1e-5


@pytest.mark.parametrize("encoder", ["edsr-baseline", "rdn", "rcan"])
def test_bfloat16(encoder: str) -> None:
    model, lr = tiny(f"{encoder}-liif-anysr").bfloat16(), torch.rand(1, 3, 19, 13)
    with torch.no_grad():
        assert (model(lr, 2, tile=6) - model(lr, 2, tile=None)).abs().max() < 0.02


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("edsr-baseline-arbsr", {}),
        ("rcan-liif-anysr", {"num_groups": 1, "num_blocks": 2}),
        ("rdn-liif", {"num_blocks": 2}),
        ("rdn-liif-anysr", {"num_blocks": 2}),
        ("rdn-liif-anysr", {"num_blocks": 2, "columns": "own"}),
        ("rdn-a-liif-anysr", {"num_blocks": 2}),
    ],
)
def test_the_maps_that_are_kept_are_counted(
    name: str, changed: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = anysr.build(name, encoder=changed).eval().encoder
    maps: list[weakref.ref[torch.Tensor]] = []
    held: list[int] = []

    def new_map(channels: int, like: torch.Tensor) -> torch.Tensor:
        made = tiles.new_map(channels, like)
        maps.append(weakref.ref(made))
        held.append(sum(kept.shape[1] for ref in maps if (kept := ref()) is not None))
        return made

    monkeypatch.setattr(importlib.import_module(type(encoder).__module__), "new_map", new_map)
    for width in (encoder.config.slim_channels // 2, encoder.config.slim_channels):
        held.clear()
        with torch.no_grad():
            encoder.in_tiles(torch.rand(1, 3, 8, 8), (2.0, 2.0), width, (4, 4), lambda share: None)
        assert max(held) == encoder.kept_channels(width)


def test_large_images_are_cut_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    model, lr = tiny("rdn-srno-anysr"), torch.rand(1, 3, 70, 70)
    with torch.no_grad():
        whole = model(lr, 1.5)
        channels, like = model.encoder.window_channels(8), torch.empty(0)
        assert resolve_tile("auto", (70, 70), channels, like) is None
        monkeypatch.setattr(tiles, "WINDOW_BYTES", 2**20)
        assert resolve_tile("auto", (70, 70), channels, like) is not None
        assert (model(lr, 1.5) - whole).abs().max() < 1e-5


@pytest.mark.parametrize("tile", [0, -4, 2.5, "8", (4,), (4, 0), (4, 4, 4), True, np.array([4]), np.array([2.0, 2.0])])
def test_impossible_tiles(tile: object) -> None:
    with torch.no_grad(), pytest.raises(ValueError, match="tile must be"):
        tiny("edsr-baseline-liif")(torch.rand(1, 3, 5, 5), 2, tile=tile)  # type: ignore[arg-type]


def test_tiles_of_other_libraries() -> None:
    model, lr = tiny("edsr-baseline-liif"), torch.rand(1, 3, 5, 5)
    with torch.no_grad():
        for tile in (np.array([2, 3]), torch.tensor([2, 3])):
            assert torch.equal(model(lr, 2, tile=tile), model(lr, 2, tile=(2, 3)))  # type: ignore[arg-type]


def test_gradients_need_the_whole_image() -> None:
    with pytest.raises(ValueError, match="no_grad"):
        tiny("edsr-baseline-liif")(torch.rand(1, 3, 5, 5), 2, tile=2)
