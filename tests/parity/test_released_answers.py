"""P2: what the published networks answered, stored with their random weights (shared/parity)."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from anysr import AnySR, EdsrConfig, InterweaveConfig, LiifConfig, MetaSrConfig, ModelConfig, SrnoConfig, SubnetConfig
from tests import conftest

SHARED = conftest.SHARED / "parity"
PLAIN = (SubnetConfig((1.0, 4.0)),)
CASES = {
    "edsr-baseline-liif": ModelConfig(EdsrConfig(), LiifConfig(), None, PLAIN),
    "edsr-baseline-srno": ModelConfig(EdsrConfig(), SrnoConfig(), None, PLAIN),
    "edsr-baseline-srno-anysr": ModelConfig(EdsrConfig(), SrnoConfig(), InterweaveConfig(parity_sign=True)),
    "edsr-baseline-metasr": ModelConfig(EdsrConfig(), MetaSrConfig(), None, PLAIN),
}
RENAMED = (
    (r"^encoder\.head\.0\.", "encoder.head."),
    (r"^encoder\.body\.16\.", "encoder.tail."),
    (r"^encoder\.body\.(\d+)\.(body\.0|conv1)\.", r"encoder.blocks.\1.conv1."),
    (r"^encoder\.body\.(\d+)\.(body\.2|conv2)\.", r"encoder.blocks.\1.conv2."),
    (r"^encoder\.body\.(\d+)\.(fc\d)\.", r"encoder.blocks.\1.gate.\2."),
    (r"^(conv00|fc1|fc2)\.", r"decoder.\1."),
    (r"^conv([01])\.", r"decoder.blocks.\1."),
)


def renamed(name: str) -> str:
    if name.startswith("imnet.layers."):
        _, _, number, kind = name.split(".")
        return f"decoder.layers.{int(number) // 2}.{kind}"
    for pattern, ours in RENAMED:
        name = re.sub(pattern, ours, name)
    return name


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[AnySR, dict[str, np.ndarray]]:
    name: str = request.param
    if not SHARED.is_dir():
        pytest.skip(f"no stored answers at {SHARED}")
    released: dict[str, Tensor] = torch.load(SHARED / f"{name}.pth", weights_only=True, map_location="cpu")["model"][
        "sd"
    ]
    model = AnySR(CASES[name])
    model.load_state_dict({renamed(k): v for k, v in released.items() if "_mean." not in k})
    if name.endswith("anysr"):  # its encoder, unlike LIIF's and SRNO's, applies the mean shift that the file holds
        mean = released["encoder.sub_mean.bias"].view(1, 3, 1, 1)
        model.encoder.register_forward_pre_hook(lambda _, args: (args[0] + mean, *args[1:]))
    with np.load(SHARED / f"{name}.npz") as stored:
        return model.eval(), dict(stored)


def test_every_stored_scale(case: tuple[AnySR, dict[str, np.ndarray]]) -> None:
    model, stored = case
    lr = torch.from_numpy(stored["lr"]).permute(2, 0, 1)[None].float() / 255
    answers = {name: value for name, value in stored.items() if name.startswith("sr_")}
    assert answers
    for name, expected in answers.items():
        match = re.fullmatch(r"sr_([\d.]+)x([\d.]+)(_full|_subnet)?", name)
        assert match
        subnet = "auto" if match[3] == "_subnet" else "full"
        for mode in (torch.no_grad(), torch.enable_grad()):
            with mode:
                sr = model(lr, (float(match[1]), float(match[2])), subnet=subnet)[0].detach().permute(1, 2, 0).numpy()
            assert sr.shape == expected.shape
            assert np.abs(sr - expected).max() < 1e-4, name


def test_features(case: tuple[AnySR, dict[str, np.ndarray]]) -> None:
    model, stored = case
    if "feat" not in stored:
        pytest.skip("no features stored")
    lr = torch.from_numpy(stored["lr"]).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        feat = model.encoder((lr - 0.5) / 0.5, (2.0, 2.0), 64)[0].numpy()
    assert np.abs(feat - stored["feat"]).max() < 1e-4
