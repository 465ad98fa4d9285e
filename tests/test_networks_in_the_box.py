"""What is shipped: small files that load, beat bicubic at every scale, and leave their input alone at ×1."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import anysr
from anysr import AnySR
from anysr.metrics import psnr
from anysr.serialization import pretrained_file
from pipeline.data.degrade import lr_hr_pair, resize_bicubic
from pipeline.data.photos import Pixels, decode_rgb, list_photos, photo_folder
from pipeline.evaluation.upscalers import to_tensor
from pipeline.train.validation import central_crop

CROP_PX = 320
PARAMETERS = {"anysr-tiny": 0.25e6, "anysr-base": 1.7e6}
# Far below what the cards say of benchmark photos, far above a mistake.
LEAST_GAIN_DB = {1.5: 1.0, 2.0: 0.8, 3.0: 0.5, 4.0: 0.4, 6.0: 0.1, 8.0: 0.05}


@pytest.fixture(scope="module")
def photos() -> list[Pixels]:
    folder = photo_folder(None, "validation", None, None)
    return [central_crop(decode_rgb(path, 100), CROP_PX) for path in list_photos(folder)]


@pytest.fixture(scope="module", params=PARAMETERS)
def network(request: pytest.FixtureRequest) -> AnySR:
    return anysr.load(request.param)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_box_holds_small_files(name: str) -> None:
    assert name in anysr.list_pretrained()
    assert pretrained_file(name).stat().st_size < 8e6
    assert sum(p.numel() for p in anysr.load(name).parameters()) <= PARAMETERS[name]


def scores(network: AnySR, photos: list[Pixels], scale: float, *subnets: int | str) -> list[float]:
    """Mean PSNR of bicubic, then of each subnet."""
    values: list[list[float]] = []
    for photo in photos:
        lr, hr = lr_hr_pair(photo, scale)
        size, target = (hr.shape[0], hr.shape[1]), to_tensor(hr)
        with torch.no_grad():
            answers: list[Tensor] = [network(to_tensor(lr)[None], scale, size, subnet=n)[0] for n in subnets]
        values.append([psnr(sr, target, math.ceil(scale)) for sr in (to_tensor(resize_bicubic(lr, size)), *answers)])
    return [float(mean) for mean in np.mean(values, axis=0)]


def test_every_scale_beats_bicubic(network: AnySR, photos: list[Pixels]) -> None:
    for scale, gain in LEAST_GAIN_DB.items():
        bicubic, own = scores(network, photos, scale, "auto")
        assert own > bicubic + gain, scale


def test_scale_1_returns_the_input(network: AnySR, photos: list[Pixels]) -> None:
    for photo in photos:
        lr = to_tensor(photo)[None]
        with torch.no_grad():
            for subnet in ("auto", "full"):
                assert psnr(network(lr, 1.0, subnet=subnet)[0], lr[0], 0) > 60


def test_neighbours_agree_where_their_groups_meet(network: AnySR, photos: list[Pixels]) -> None:
    for below, above in itertools.pairwise(network.subnets):
        _, *both = scores(network, photos, above.scales[0], below.index, above.index)
        assert abs(both[1] - both[0]) < 0.2, above.scales  # the cards have whole suites; these are four small photos


def test_a_cheaper_subnet_loses_little_where_it_is_used(network: AnySR, photos: list[Pixels]) -> None:
    for scale, least_saved in ((1.5, 0.5), (2.0, 0.4), (3.0, 0.2)):
        own, full = (anysr.cost(network, (256, 256), scale, subnet).macs for subnet in ("auto", "full"))
        assert 1 - own / full >= least_saved
        _, narrow, whole = scores(network, photos, scale, "auto", "full")
        assert narrow > whole - 0.15, scale
