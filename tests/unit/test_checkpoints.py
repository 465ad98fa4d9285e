"""Released files and our own, damaged, foreign or with traps in them; the released layout is written here."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from safetensors.torch import save_file
from torch import Tensor

import anysr
from anysr.checkpoints.names import released_name
from tests.refusal import refusal

TINY: dict[str, Any] = {"encoder": {"num_blocks": 1, "channels": 16}, "decoder": {"hidden": 16}}


def as_released(name: str, **overrides: Any) -> tuple[anysr.AnySR, dict[str, Tensor]]:
    """A fresh LIIF, SRNO or Meta-SR network, with AnySR's encoder or without, and its weights under released names."""
    model = anysr.build(name, **{**TINY, **overrides}).eval()
    family = {"liif": "LIIF", "srno": "SRNO", "metasr": "Meta-SR"}[model.config.decoder.kind]
    weights = {released_name(key, family, model.config): tensor for key, tensor in model.state_dict().items()}
    if model.config.interweave is not None:
        weights |= {"encoder.sub_mean.weight": torch.eye(3)[..., None, None], "encoder.sub_mean.bias": torch.zeros(3)}
    return model, weights


def written(path: Path, weights: dict[str, Any], spec: dict[str, Any] | None = None) -> Path:
    torch.save({"model": {"name": "any", "args": spec or {}, "sd": weights}}, path)
    return path


@pytest.mark.parametrize(
    ("name", "encoder", "interval"),
    [
        ("edsr-baseline-liif-anysr", {"num_blocks": 1, "channels": 24}, 16),
        ("edsr-baseline-liif-anysr", {"num_blocks": 1, "channels": 40}, 16),
        ("rdn-liif-anysr", {"num_blocks": 1, "num_convs": 4, "growth": 20, "channels": 16}, 16),
        ("edsr-baseline-liif-anysr", {"num_blocks": 1, "channels": 24}, 6),
    ],
)
def test_the_interweaving_interval_is_the_published_one_where_it_can_be(
    name: str, encoder: dict[str, Any], interval: int, tmp_path: Path
) -> None:
    interweave = {"interval": interval, "parity_sign": True}
    model, weights = as_released(name, encoder=encoder, interweave=interweave)
    again = anysr.load(written(tmp_path / "net.pth", weights))
    assert again.config.interweave == model.config.interweave


def test_a_description_that_weights_cannot_tell_is_heeded(tmp_path: Path) -> None:
    _, weights = as_released("edsr-baseline-liif")
    assert anysr.load(written(tmp_path / "net.pth", weights, {"local_ensemble": True}))
    assert "local_ensemble" in refusal(written(tmp_path / "net.pth", weights, {"local_ensemble": False}))
    spec = {"encoder_spec": {"args": {"res_scale": 10**400}}}
    assert "res_scale" in refusal(written(tmp_path / "net.pth", weights, spec))


@pytest.mark.parametrize(
    ("said", "make"),
    [
        ("sparse_coo", lambda tensor: tensor.to_sparse()),
        ("sparse_csr", lambda tensor: tensor.flatten(1).to_sparse_csr()),
        ("on device meta", lambda tensor: tensor.to("meta")),
        ("torch.complex64", lambda tensor: tensor.to(torch.complex64)),
        ("torch.int64", lambda tensor: tensor.long()),
        ("torch.bool", lambda tensor: tensor.bool()),
        ("torch.float8_e4m3fn", lambda tensor: tensor.to(torch.float8_e4m3fn)),
        ("not finite", lambda tensor: tensor * float("nan")),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_that_are_no_weights_are_named(said: str, make: Any, tmp_path: Path) -> None:
    _, weights = as_released("edsr-baseline-liif")
    weights["imnet.layers.0.weight"] = make(weights["imnet.layers.0.weight"])
    message = refusal(written(tmp_path / "net.pth", weights))
    assert "imnet.layers.0.weight is " in message
    assert said in message


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module.module.", "module._orig_mod."])
@pytest.mark.parametrize("table", [None, "model", "state_dict", "params"])
def test_wrappings_are_taken_off(prefix: str, table: str | None, tmp_path: Path) -> None:
    model, weights = as_released("edsr-baseline-liif")
    weights = {prefix + name: tensor for name, tensor in weights.items()}
    torch.save(weights if table is None else {table: weights, "epoch": 3}, tmp_path / "net.pth")
    assert anysr.load(tmp_path / "net.pth").config.encoder == model.config.encoder


def test_two_networks_in_a_file_are_refused(tmp_path: Path) -> None:
    _, weights = as_released("edsr-baseline-liif")
    twice = weights | {"module.imnet.layers.0.bias": torch.ones(16)}
    assert "imnet.layers.0.bias twice, at least once behind a prefix" in refusal(written(tmp_path / "net.pth", twice))
    torch.save({"params": weights, "params_ema": weights}, tmp_path / "net.pth")
    assert "several networks (params, params_ema)" in refusal(tmp_path / "net.pth")


def test_a_tensor_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    _, weights = as_released("edsr-baseline-liif")
    weights["imnet.layers.0.weight"] = torch.zeros(1).expand(40000, 40000)
    message = refusal(written(tmp_path / "net.pth", weights))
    assert "repeat the same numbers, perhaps imnet.layers.0.weight of 6400000000" in message


def test_more_parts_than_tensors_are_refused_at_once(tmp_path: Path) -> None:
    _, weights = as_released("rcan-liif", encoder={"num_groups": 1, "num_blocks": 1, "channels": 16})
    weights |= {f"spare.{i}": torch.zeros(1) for i in range(600)}
    weights |= {"encoder.body.599.body.0.bias": torch.zeros(1), "encoder.body.0.body.599.body.0.bias": torch.zeros(1)}
    assert "num_groups 600, num_blocks 600" in refusal(written(tmp_path / "net.pth", weights))


def test_long_lists_are_shortened(tmp_path: Path) -> None:
    _, weights = as_released("edsr-baseline-liif")
    weights |= {f"spare.{i}": torch.zeros(1) for i in range(500)}
    message = refusal(written(tmp_path / "net.pth", weights))
    assert message.endswith("spare.199 (1,) … and 300 more")


def test_flipped_bytes_are_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "net.pth", as_released("edsr-baseline-liif")[1])
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        member = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
    content[member.header_offset + 700] ^= 1
    path.write_bytes(content)
    assert "data/0 does not match its checksum" in refusal(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", bytes(10**6))
    assert "net/data.pkl is compressed" in refusal(path)


def own(path: Path, **changes: Any) -> Path:
    """A file of ours whose description was changed by hand, like ``num_blocks=…`` in its encoder."""
    model = anysr.build("edsr-baseline-liif", **TINY)
    config = model.config.to_dict()
    for key, value in changes.items():
        part, _, name = key.partition("__")
        config[part] = {**config[part], name: value} if name else value
    save_file(model.state_dict(), path, {"anysr": json.dumps({"format": 1, "config": config})})
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder__num_blocks": 100000}, "tensors are too few for its encoder of num_blocks 100000"),
        ({"encoder__num_blocks": 400}, "more"),
        ({"decoder__hidden": 10**20}, "impossible sizes"),
        ({"decoder__hidden": 10**18}, "impossible sizes"),
        ({"decoder__hidden": 16.0}, "model.decoder.hidden must be a whole number, got 16.0"),
        ({"encoder__residual_scale": 10**400}, "model.encoder.residual_scale must be a number"),
        ({"colour": None}, "model.colour"),
        ({"colour__to_rgb": None}, "model.colour.to_rgb"),
        ({"colour__to_network": [[1, 0, 0, float("nan")]] * 3}, "colour.to_network must hold finite numbers"),
        ({"subnets": 3}, "model.subnets"),
    ],
)
def test_impossible_descriptions_are_refused_in_a_line(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    message = refusal(own(tmp_path / "net.safetensors", **changes))
    assert said in message
    assert len(message) < 20_000


@pytest.mark.parametrize("text", ["[" * 100000, '{"format": ' + "9" * 5000 + "}", "null"])
def test_descriptions_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(anysr.build("edsr-baseline-liif", **TINY).state_dict(), path, {"anysr": text})
    assert "does not describe a network" in refusal(path)


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("several types", lambda tensor: tensor.half()),
        ("torch.float8_e4m3fn", lambda tensor: tensor.to(torch.float8_e4m3fn)),
        ("not finite", lambda tensor: tensor / 0),
    ],
)
def test_weights_of_another_kind_are_refused(said: str, change: Any, tmp_path: Path) -> None:
    path, model = tmp_path / "net.safetensors", anysr.build("edsr-baseline-liif", **TINY)
    anysr.save(model, path)
    weights = model.state_dict()
    weights["encoder.head.weight"] = change(weights["encoder.head.weight"])
    description = json.dumps({"format": 1, "config": model.config.to_dict()})
    save_file(weights, path, {"anysr": description})
    assert said in refusal(path)


def pruned(model: torch.nn.Module) -> None:
    torch.nn.utils.prune.l1_unstructured(model.get_submodule("encoder.head"), "weight", 0.5)


def sparse(model: Any) -> None:
    model.encoder.head.bias = torch.nn.Parameter(model.encoder.head.bias.data.to_sparse())


def parametrized(model: torch.nn.Module) -> None:
    torch.nn.utils.parametrizations.weight_norm(model.get_submodule("encoder.head"))


@pytest.mark.parametrize(
    ("said", "change"),
    [
        (r"do not fit: missing: encoder\.head\.weight .*weight_orig .*torch\.nn\.utils\.prune\.remove", pruned),
        (r"encoder\.head\.parametrizations.*torch\.nn\.utils\.parametrize\.remove_parametrizations", parametrized),
        (r"unexpected: extra\.weight \(1, 1\)", lambda model: model.add_module("extra", torch.nn.Linear(1, 1))),
        (r"of several types \(torch\.float\d\d, torch\.float64\)", lambda model: model.decoder.double()),
        (r"encoder\.head\.bias is not finite", lambda model: model.encoder.head.bias.data.fill_(float("nan"))),
        (r"encoder\.head\.bias is not finite", lambda model: model.encoder.head.bias.data.fill_(float("inf"))),
        (r"encoder\.head\.bias is sparse", sparse),
        (r"encoder\.head\.\w+ is on device meta, without values", lambda model: model.to("meta")),
    ],
)
@pytest.mark.parametrize("half", [False, True])
def test_what_could_not_be_loaded_again_is_not_written(said: str, change: Any, half: bool, tmp_path: Path) -> None:
    path, model = tmp_path / "new" / "net.safetensors", anysr.build("edsr-baseline-liif", **TINY)
    change(model)
    with pytest.raises(ValueError, match=f"^the network cannot be saved: .*{said}") as caught:
        anysr.save(model, path, half=half)
    assert "\n" not in str(caught.value)
    assert not path.parent.exists()


def test_layers_that_share_their_weights_are_saved(tmp_path: Path) -> None:
    path, model = tmp_path / "net.safetensors", anysr.build("edsr-baseline-liif", **TINY)
    convolutions = [module for module in model.encoder.modules() if isinstance(module, torch.nn.Conv2d)]
    convolutions[-1].weight = convolutions[-2].weight
    anysr.save(model, path)
    for name, tensor in anysr.load(path).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


@pytest.mark.parametrize("change", [pruned, parametrized])
def test_subnets_of_pruned_networks_are_refused(change: Any) -> None:
    model = anysr.build("edsr-baseline-liif", **TINY)
    change(model)
    with pytest.raises(ValueError, match=r"encoder\.head\..* first \(torch\.nn\.utils\.prune\.remove, "):
        model.extract(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_half_storage_keeps_what_is_no_float16(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    encoder = {"num_groups": 1, "num_blocks": 1, "channels": 16}
    model = anysr.build("rcan-arbsr", encoder=encoder, decoder={"bottleneck": 2}).to(dtype)
    for _ in range(2):
        anysr.save(model, path, half=True)
        model = anysr.load(path)
        kinds = {name.endswith("num_batches_tracked"): tensor.dtype for name, tensor in model.state_dict().items()}
        assert kinds == {False: dtype, True: torch.int64}
