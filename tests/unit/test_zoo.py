"""The table of names: every one builds, answers, extracts, fuses, and comes back from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import anysr
from anysr.zoo import MODELS

# Small enough to run them all; the kinds, groups and widths stay the named ones.
TINY_ENCODER: dict[str, dict[str, Any]] = {
    "edsr": {"num_blocks": 2, "channels": 16},
    "rdn": {"num_blocks": 2, "growth": 8, "channels": 16},
    "rcan": {"num_groups": 2, "num_blocks": 1, "channels": 16},
    "rgb": {},
}
TINY_DECODER: dict[str, dict[str, Any]] = {
    "liif": {"hidden": 32},
    "srno": {"hidden": 32, "head_channels": 8},
    "metasr": {"hidden": 16},
    "arbsr": {"bottleneck": 8},
    "pixelshuffle": {},
    "vdsr": {"num_layers": 4, "hidden": 8},
    "ecbsr": {"num_blocks": 2, "channels": 8},
}


def tiny(name: str, **overrides: Any) -> anysr.AnySR:
    torch.manual_seed(0)
    config = MODELS[name]
    encoder = dict(TINY_ENCODER[config.encoder.kind])
    if getattr(config.encoder, "adapt_every", 0):
        encoder["adapt_every"] = 1
    return anysr.build(name, encoder=encoder, decoder=TINY_DECODER[config.decoder.kind], **overrides).eval()


def factor(model: anysr.AnySR) -> float:
    return model.config.fixed_factor or 2.3


def test_every_encoder_has_every_decoder_plain_and_anysr() -> None:
    for encoder in ("edsr-baseline", "edsr", "rdn", "rdn-a", "rcan"):
        for decoder in ("liif", "srno", "metasr", "arbsr"):
            for form in ("", "-anysr"):
                config = MODELS[f"{encoder}-{decoder}{form}"]
                assert config.decoder.kind == decoder
                assert encoder.startswith(config.encoder.kind)
                assert (config.interweave is None, len(config.subnets)) == ((True, 1) if not form else (False, 4))
    assert anysr.list_models() == list(MODELS)


def test_networks_that_are_named_by_a_factor_have_it_and_no_others_do() -> None:
    fixed = {name: config.fixed_factor for name, config in MODELS.items() if config.fixed_factor is not None}
    assert fixed == {name: int(name[-1]) for name in MODELS if name[-2] == "x"}


@pytest.mark.parametrize("name", MODELS)
def test_answers_come_back_from_a_file(name: str, tmp_path: Path) -> None:
    model, lr = tiny(name), torch.rand(2, 3, 7, 9)
    with torch.no_grad():
        sr = model(lr, factor(model))
        assert sr.shape == (2, 3, round(7 * factor(model)), round(9 * factor(model)))
        anysr.save(model, tmp_path / "net.safetensors")
        again = anysr.load(tmp_path / "net.safetensors")
        assert again.config == model.config
        assert torch.equal(again(lr, factor(model)), sr)
        assert (model.fuse()(lr, factor(model)) - sr).abs().max() < 1e-5


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("-anysr")])
@pytest.mark.parametrize("columns", ["prefix", "own"])
def test_extracted_subnets_answer_alike(name: str, columns: str) -> None:
    if columns == "own" and MODELS[name].encoder.kind != "rdn":
        pytest.skip("only RDN's channels can shift")
    # The decoders are narrowed too, which the named configurations leave alone.
    subnets = [
        {"scales": group.scales, "encoder_width": group.encoder_width, "decoder_width": width}
        for group, width in zip(MODELS[name].subnets, (0.25, 0.5, 0.75, 1.0), strict=True)
    ]
    model = tiny(name, subnets=subnets)
    if columns == "own":
        encoder = {**model.config.to_dict()["encoder"], "columns": "own"}
        model = anysr.build(anysr.ModelConfig.from_dict({**model.config.to_dict(), "encoder": encoder})).eval()
    lr, sizes = torch.rand(1, 3, 7, 6), []
    for index in range(4):
        small = model.extract(index)
        sizes.append(sum(p.numel() for p in small.parameters()))
        with torch.no_grad():
            for scale in (1.6, (2.0, 3.1)):
                assert (small(lr, scale) - model(lr, scale, subnet=index)).abs().max() < 1e-5
        cost = anysr.cost(model, (7, 6), 2, index)
        assert cost.params == sizes[-1]
        assert cost.macs == anysr.cost(small, (7, 6), 2).macs
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_every_weight_is_trained(name: str, autocast: bool) -> None:
    model, lr = tiny(name).train(), torch.rand(2, 3, 8, 8)
    coord = torch.rand(2, 30, 2) * 2 - 1
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        rgb = model(lr, factor(model), subnet="full", coord=coord)
    rgb.float().square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", MODELS)
def test_weights_may_lie_channels_last(name: str) -> None:
    model, lr = tiny(name), torch.rand(1, 3, 9, 12)
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        sr = model.to(memory_format=memory_format)(lr.to(memory_format=memory_format), factor(model))
        gradients = torch.autograd.grad(sr.square().mean(), list(model.parameters()), allow_unused=True)
        results.append([sr.detach(), *gradients])
    for plain, last in zip(*results, strict=True):
        assert (plain is None) == (last is None)
        assert plain is None or (plain - last).abs().max() <= 1e-5 * max(1, float(plain.abs().max()))


def test_overrides_and_their_errors() -> None:
    model = anysr.build("rdn-liif", encoder={"num_blocks": 1}, decoder={"kind": "srno", "hidden": 32})
    assert (model.config.encoder.num_blocks, model.config.encoder.growth) == (1, 64)
    assert model.config.decoder == anysr.SrnoConfig(hidden=32)
    with pytest.raises(ValueError, match="did you mean 'rdn-srno'"):
        anysr.build("rdn-srn0")
    with pytest.raises(ValueError, match="did you mean 'num_blocks'"):
        anysr.build("rdn-liif", encoder={"num_block": 1})
    with pytest.raises(ValueError, match="overrides change a named network"):
        anysr.build(anysr.ModelConfig(), width_multiple=8)


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].encoder.kind == "rgb" or "-x" in name])
def test_multiply_adds_of_the_baselines_as_counted(name: str) -> None:
    model = tiny(name).fuse()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.rand(1, 3, 6, 5), factor(model))
    assert counter.get_total_flops() == 2 * anysr.cost(model, (6, 5), factor(model)).macs
