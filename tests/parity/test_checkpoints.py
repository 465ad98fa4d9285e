"""Released files as people have them: recognised by their weights, answered as published, refused in one line."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import anysr
from anysr.checkpoints.names import released_name
from anysr.cli import main
from tests import conftest
from tests.refusal import refusal

SHARED = conftest.SHARED / "parity"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no released files at {SHARED}")
KINDS = {
    "edsr-baseline-liif": ("edsr", "liif"),
    "edsr-baseline-metasr": ("edsr", "metasr"),
    "edsr-baseline-srno": ("edsr", "srno"),
    "edsr-baseline-srno-anysr": ("edsr", "srno"),
    "rcan-arbsr": ("rcan", "arbsr"),
    "rdn-liif": ("rdn", "liif"),
    "rdn-srno-anysr": ("rdn", "srno"),
}


def answers(name: str) -> tuple[Tensor, dict[str, np.ndarray]]:
    with np.load(SHARED / f"{name}.npz") as stored:
        lr = torch.from_numpy(stored["lr"]).permute(2, 0, 1)[None] / 255
        return lr, {key: stored[key] for key in stored if key.startswith("sr_")}


def check_answers(model: anysr.AnySR, name: str) -> None:
    """On the device of the model."""
    lr, expected = answers(name)
    lr = lr.to(next(model.parameters()).device)
    assert expected
    for key, value in expected.items():
        match = re.fullmatch(r"sr_([\d.]+)x([\d.]+)(_full|_subnet)?", key)
        assert match
        subnet = "full" if match[3] == "_full" else "auto"
        with torch.no_grad():
            sr = model(lr, (float(match[1]), float(match[2])), subnet=subnet)[0].permute(1, 2, 0).cpu().numpy()
        assert sr.shape == value.shape
        assert np.abs(sr - value).max() < 1e-4, key


@pytest.mark.parametrize("name", KINDS)
def test_every_stored_answer_also_after_converting(name: str, tmp_path: Path) -> None:
    model = anysr.load(SHARED / f"{name}.pth")
    assert (model.config.encoder.kind, model.config.decoder.kind) == KINDS[name]
    assert len(model.subnets) == (4 if name.endswith("-anysr") else 1)
    assert not model.training
    check_answers(model, name)
    assert main(["convert", str(SHARED / f"{name}.pth"), str(tmp_path / "net.safetensors")]) == 0
    converted = anysr.load(tmp_path / "net.safetensors")
    assert converted.config == model.config
    check_answers(converted, name)


@pytest.mark.parametrize("name", ["edsr-baseline-liif", "edsr-baseline-srno", "edsr-baseline-metasr", "rdn-liif"])
def test_stored_features(name: str) -> None:
    model = anysr.load(SHARED / f"{name}.pth")
    with np.load(SHARED / f"{name}.npz") as stored, torch.no_grad():
        lr = torch.from_numpy(stored["lr"]).permute(2, 0, 1)[None] / 255
        feat = model.encoder((lr - 0.5) / 0.5, (2.0, 2.0), 64)[0].numpy()
        assert np.abs(feat - stored["feat"]).max() < 1e-4


@pytest.mark.parametrize("name", ["edsr-baseline-srno-anysr", "rdn-srno-anysr"])
def test_extracted_subnets_answer_as_the_release_does(name: str) -> None:
    model = anysr.load(SHARED / f"{name}.pth")
    lr, expected = answers(name)
    scale = {0: "1.5", 1: "2.0", 2: "2.8", 3: "3.7"}
    for index, text in scale.items():
        with torch.no_grad():
            sr = model.extract(index)(lr, float(text))[0].permute(1, 2, 0).numpy()
        assert np.abs(sr - expected[f"sr_{text}x{text}_subnet"]).max() < 1e-4


def read(name: str) -> dict[str, Any]:
    return torch.load(SHARED / f"{name}.pth", weights_only=True)


@pytest.mark.parametrize("spec", [{"name": "edsr-baseline-metasr"}, {"name": 3, "args": None}, {}])
@pytest.mark.parametrize("name", ["rdn-liif", "edsr-baseline-srno-anysr"])
def test_an_edited_name_does_not_matter(name: str, spec: dict[str, Any], tmp_path: Path) -> None:
    content = read(name)
    content["model"] = {**spec, "sd": content["model"]["sd"]}
    torch.save(content, tmp_path / "edited.pth")
    assert anysr.load(tmp_path / "edited.pth").config == anysr.load(SHARED / f"{name}.pth").config


def test_other_wrappings_are_read(tmp_path: Path) -> None:
    weights = read("rdn-liif")["model"]["sd"]
    torch.save(weights, tmp_path / "bare.pth")
    torch.save({"module." + name: tensor.half() for name, tensor in weights.items()}, tmp_path / "parallel.pth")
    torch.save(read("rdn-liif"), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    config = anysr.load(SHARED / "rdn-liif.pth").config
    for name in ("bare", "parallel", "old"):
        model = anysr.load(tmp_path / f"{name}.pth")
        assert model.config == config
        assert next(model.parameters()).dtype == torch.float32


def test_a_trained_mean_shift_is_kept(tmp_path: Path) -> None:
    weights = read("rcan-arbsr")
    torch.manual_seed(0)
    for name in ("sub_mean.weight", "add_mean.weight"):
        weights[name] = weights[name] + 0.1 * torch.randn(3, 3, 1, 1)
    torch.save(weights, tmp_path / "trained.pth")
    anysr.save(anysr.load(tmp_path / "trained.pth"), tmp_path / "net.safetensors")
    model, lr = anysr.load(tmp_path / "net.safetensors"), torch.rand(1, 3, 9, 8)
    with torch.no_grad():
        given = torch.nn.functional.conv2d(255 * lr, weights["sub_mean.weight"], weights["sub_mean.bias"])
        feat = model.encoder(given, (2.0, 2.0), 64)
        rgb = model.decoder(feat, given, anysr.geometry.GridQueries((18, 16)), 8)
        expected = torch.nn.functional.conv2d(rgb, weights["add_mean.weight"], weights["add_mean.bias"]) / 255
        assert (model(lr, 2) - expected).abs().max() < 1e-5


# Ours written out as released: families and sizes of which no file is stored.
WRITTEN = {
    "edsr-srno": {"encoder": {"num_blocks": 3, "channels": 24}},
    "edsr-liif": {"encoder": {"num_blocks": 1, "channels": 256}, "decoder": {"num_layers": 2}},
    "edsr-arbsr": {"encoder": {"num_blocks": 4, "channels": 16, "adapt_every": 2}, "decoder": {"bottleneck": 2}},
    "rcan-liif": {"encoder": {"num_groups": 2, "num_blocks": 3, "channels": 16, "reduction": 4}},
    "rcan-metasr": {"encoder": {"num_groups": 1, "num_blocks": 1}, "decoder": {"hidden": 32}},
    "rcan-arbsr": {"encoder": {"num_groups": 3, "num_blocks": 1, "channels": 32}},
    "rdn-metasr": {"encoder": {"num_blocks": 2, "num_convs": 5, "growth": 12, "channels": 16}},
    "rdn-a-srno": {"encoder": {"num_blocks": 1}, "decoder": {"hidden": 64, "head_channels": 8, "num_blocks": 3}},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_sizes_are_read_from_the_weights(name: str, tmp_path: Path) -> None:
    model = anysr.build(name, **WRITTEN[name]).eval()
    kinds = {"liif": "LIIF", "srno": "SRNO", "metasr": "Meta-SR", "arbsr": "ArbSR"}
    family = kinds[model.config.decoder.kind]
    weights = {released_name(key, family, model.config): tensor for key, tensor in model.state_dict().items()}
    for key in ("weight_compress", "weight_expand"):
        if family == "ArbSR":
            weights[f"sa_upsample.{key}"] = weights[f"sa_upsample.{key}"][..., None, None]
    if family == "ArbSR":
        weights |= {f"{key}.weight": torch.eye(3)[..., None, None] for key in ("sub_mean", "add_mean")}
        mean = 255 * torch.tensor(anysr.colour.DIV2K_MEAN)
        weights |= {"sub_mean.bias": -mean, "add_mean.bias": mean}
    spec = {"encoder_spec": {"args": {"res_scale": getattr(model.config.encoder, "residual_scale", 1)}}}
    torch.save({"model": {"name": "any", "args": spec, "sd": weights}}, tmp_path / "net.pth")
    again, lr = anysr.load(tmp_path / "net.pth"), torch.rand(1, 3, 7, 6)
    assert (again.config.encoder, again.config.decoder) == (model.config.encoder, model.config.decoder)
    with torch.no_grad():
        assert (again(lr, 2.3) - model(lr, 2.3)).abs().max() < 1e-5


def test_files_of_our_own_are_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    anysr.save(anysr.build("vdsr", decoder={"num_layers": 2, "hidden": 4}), path)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for description, said in (
        ('{"format": 1, "config": {"decoder": {"kind": "vdsr"}, "depth": 3}}', "unknown 'depth'"),
        ('{"format": 1}', "does not describe a network"),
        ("[1]", "does not describe a network"),
        ("no", "does not describe a network"),
        ('{"format": 2}', "not an AnySR model file of format 1"),
    ):
        save_file(tensors, path, {"anysr": description})
        with pytest.raises(ValueError, match=said):
            anysr.load(path)
    del tensors["decoder.layers.0.bias"]
    save_file(tensors, path, metadata)
    assert "missing: decoder.layers.0.bias (4,)" in refusal(path)
    path.write_bytes(path.read_bytes()[:200])
    assert "cut short" in refusal(path)


def damaged(name: str) -> dict[str, Any]:
    """Half-matching: one key gone, one too many, one of another shape."""
    content = read(name)
    weights = content if name == "rcan-arbsr" else content["model"]["sd"]
    names = [key for key, tensor in weights.items() if tensor.dim() == 4 and "_mean" not in key]
    del weights[names[2]]
    weights[names[3]] = torch.zeros(5, 3, 3, 3)
    weights["encoder.attention.weight"] = torch.zeros(2)
    content["expected"] = (names[2], names[3])
    return content


@pytest.mark.parametrize("name", KINDS)
def test_half_matching_files_are_refused_with_the_list(name: str, tmp_path: Path) -> None:
    content = damaged(name)
    gone, reshaped = content.pop("expected")
    torch.save(content, tmp_path / "half.pth")
    message = refusal(tmp_path / "half.pth")
    assert f"missing: {gone} (" in message
    assert "unexpected: encoder.attention.weight (2,)" in message
    assert f"mis-shaped: {reshaped} is (5, 3, 3, 3), not (" in message


def test_only_a_part_is_refused(tmp_path: Path) -> None:
    weights = read("rdn-liif")["model"]["sd"]
    parts = {
        "encoder": {name: tensor for name, tensor in weights.items() if name.startswith("encoder.")},
        "decoder": {name: tensor for name, tensor in weights.items() if not name.startswith("encoder.")},
        "mixed": {**weights, **read("edsr-baseline-srno")["model"]["sd"]},
    }
    for name, part in parts.items():
        torch.save({"model": {"name": "liif", "sd": part}}, tmp_path / f"{name}.pth")
    assert "is not a checkpoint of" in refusal(tmp_path / "encoder.pth")
    assert "is not a checkpoint of" in refusal(tmp_path / "decoder.pth")
    assert "unexpected: " in refusal(tmp_path / "mixed.pth")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.9999])
def test_truncated_files_are_refused(share: float, tmp_path: Path) -> None:
    whole = (SHARED / "edsr-baseline-liif.pth").read_bytes()
    (tmp_path / "short.pth").write_bytes(whole[: int(len(whole) * share)])
    assert "short" in refusal(tmp_path / "short.pth")


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    foreign: dict[str, Any] = {
        "classifier": {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(10, 512)},
        "tensor": torch.zeros(3),
        "list": [1, 2, 3],
        "nested": {"model": {"sd": {"encoder.head.0.weight": "text"}}},
        "empty": {},
        "huge": {"encoder.head.0.weight": torch.zeros(200000, 1), "imnet.layers.999999999.weight": torch.zeros(3, 3)},
    }
    for name, content in foreign.items():
        torch.save(content, tmp_path / f"{name}.pth")
        refusal(tmp_path / f"{name}.pth")
    for name, raw in {
        "nothing": b"",
        "text": b"not a model",
        "zip": b"PK\x03\x04rubbish",
        "pickle": b"\x80\x02.",
    }.items():
        (tmp_path / f"{name}.pth").write_bytes(raw)
        refusal(tmp_path / f"{name}.pth")


class Malicious:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("zipped", [True, False])
def test_malicious_pickles_are_refused_and_nothing_runs(zipped: bool, tmp_path: Path) -> None:
    witness, path = tmp_path / "witness", tmp_path / "evil.pth"
    content = {**read("edsr-baseline-liif"), "extra": Malicious(witness)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert "nothing in it was run" in refusal(path)
    path.write_bytes(pickle.dumps(Malicious(witness)))
    assert "nothing in it was run" in refusal(path)
    assert not witness.exists()


def test_the_command_says_why_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.pth").write_text("not a model")
    for source, target in (("text.pth", "a.safetensors"), ("gone.pth", "a.safetensors"), ("text.pth", "a.pth")):
        assert main(["convert", str(tmp_path / source), str(tmp_path / target)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("anysr: ")
        assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "text.pth"]
