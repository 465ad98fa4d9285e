"""anysr export: what it writes answers as the network does, in onnxruntime and in torch, and nothing else is kept."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from PIL import Image

import anysr
from anysr.cli import main
from anysr.export import export_file, export_folder, onnx_graph
from anysr.export.check import TOLERANCE
from anysr.export.places import Grid
from anysr.geometry import GridQueries, axis_containing, axis_corners, bilinear_rows, pixel_centres, resolve_target
from anysr_runtime import Upscaler
from tests.conftest import ROOT

SUBNETS = [
    {"scales": [1, 2], "encoder_width": 0.5, "decoder_width": 0.5},
    {"scales": [2, 4], "encoder_width": 1, "decoder_width": 1},
]
EDSR = {"num_blocks": 2, "channels": 8}
RDN = {"num_blocks": 2, "num_convs": 4, "channels": 8, "growth": 8}
RCAN = {"num_groups": 1, "num_blocks": 2, "channels": 8, "reduction": 2}
LIIF = {"hidden": 16, "num_layers": 2, "skip": "bilinear", "fade_in": 0.5}
# Every encoder, every decoder, any-resource and plain, of every scale and of one.
NETWORKS = {
    "edsr-baseline-liif-anysr": {"encoder": EDSR, "decoder": LIIF, "subnets": SUBNETS, "interweave": {"interval": 4}},
    "edsr-baseline-srno": {"encoder": EDSR, "decoder": {"hidden": 16, "head_channels": 4}},
    "rcan-arbsr": {"encoder": RCAN | {"adapt_every": 1}, "decoder": {"bottleneck": 2}},
    "rdn-metasr-anysr": {"encoder": RDN, "decoder": {"hidden": 16}, "interweave": {"interval": 4}},
    "rcan-x2": {"encoder": RCAN},
    "ecbsr-m4c16-x2": {},
    "vdsr": {"decoder": {"num_layers": 4, "hidden": 8}},
}
SIZES = [(9, 14), (16, 10), (1, 1)]
SCALES = [(1.0, 1.0), (2.37, 2.37), (2.0, 3.1), (3.0, 3.0), (6.3, 6.3)]


def network(name, **changes):
    """A tiny one, no weight of which is 0."""
    torch.manual_seed(0)
    model = anysr.build(name, **(NETWORKS[name] | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def scales_of(model):
    factor = model.config.fixed_factor
    return SCALES if factor is None else [(float(factor), float(factor))]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Model file and folder of the any-resource LIIF, as the command line writes them."""
    folder = tmp_path_factory.mktemp("export")
    anysr.save(network("edsr-baseline-liif-anysr"), folder / "mine.safetensors")
    assert main(["export", str(folder / "mine.safetensors"), "-o", str(folder / "onnx")]) == 0
    return folder / "mine.safetensors", folder / "onnx"


@pytest.fixture(scope="module", params=[name for name in NETWORKS if name != "edsr-baseline-liif-anysr"])
def other(request, tmp_path_factory):
    """Another network, a subnet in its middle, and the file of that one."""
    model, path = network(request.param), tmp_path_factory.mktemp("other") / "x.onnx"
    subnet = len(model.subnets) // 2
    export_file(model, subnet, path, "onnx", request.param)
    return model, subnet, path


def test_onnx_answers_as_the_network(other):
    model, subnet, path = other
    compare(Upscaler(path), model, subnet)
    inputs = {value.name for value in onnxruntime.InferenceSession(path).get_inputs()}
    assert inputs == ({"lr"} if model.config.fixed_factor else {"lr", "scale"})


def test_every_subnet_and_the_choice_among_them(exported):
    model, upscaler = anysr.load(exported[0]), Upscaler(exported[1])
    for subnet in (0, 1):
        compare(upscaler, model, subnet)
    compare(upscaler, model, "auto")


def compare(upscaler, model, subnet):
    random = np.random.default_rng(0)
    for height, width in SIZES:
        image = random.random((height, width, 3), dtype=np.float32)
        lr = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
        for scale in scales_of(model):
            with torch.no_grad():
                expected = model(lr, scale, subnet=subnet)[0].permute(1, 2, 0).numpy()
            strips = list(upscaler.strips(image, scale, subnet="auto" if len(upscaler.subnets) == 1 else subnet))
            given = np.concatenate([rows for _, rows in strips])
            assert np.abs(given - expected).max() < TOLERANCE / 10, (height, width, scale)


def test_a_link_in_the_place_of_the_runtime_is_replaced(tmp_path):
    victim, folder = tmp_path / "victim", tmp_path / "onnx"
    victim.write_text("mine")
    folder.mkdir()
    (folder / "anysr_runtime.py").symlink_to(victim)
    list(export_folder(network("ecbsr-m4c16-x2"), folder, "onnx", "x"))
    assert victim.read_text() == "mine"
    assert {path.name for path in folder.iterdir()} == {"anysr_runtime.py", "manifest.json", "subnet0.onnx"}


def test_strips_are_the_whole(exported, monkeypatch):
    check_strips(Upscaler(exported[1]), 2.3, monkeypatch)


def test_strips_of_other_networks_are_the_whole(other, monkeypatch):
    model, _, path = other
    check_strips(Upscaler(path), scales_of(model)[-1], monkeypatch)


def check_strips(upscaler, scale, monkeypatch):
    """In strips of a few rows, each from a window of the features."""
    image = np.random.default_rng(0).random((40, 13, 3), dtype=np.float32)
    whole = upscaler.enlarge(image, scale)
    monkeypatch.setattr("anysr_runtime._STRIP_PIXELS", 100)
    strips = list(upscaler.strips(image, scale))
    assert len(strips) > 20
    assert [top for top, _ in strips] == list(np.cumsum([0] + [len(rows) for _, rows in strips[:-1]]))
    np.testing.assert_allclose(np.concatenate([rows for _, rows in strips]).clip(0, 1), whole, atol=1e-5)


def test_the_runtime_runs_without_torch(exported, tmp_path):
    """From the folder alone, the pixels of the command line."""
    image = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    script = (
        "import sys; sys.modules['torch'] = sys.modules['anysr'] = None; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, anysr_runtime\n"
        "upscaler, image = anysr_runtime.Upscaler(sys.argv[1]), np.load(sys.argv[2])\n"
        "for i, size in enumerate([(37, 50), (90, 101)]):\n"
        "    np.save(f'{sys.argv[3]}/{i}.npy', upscaler.enlarge(image, size=size))\n"
        "assert anysr_runtime.__file__.startswith(sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", script, exported[1], tmp_path / "image.npy", tmp_path], check=True)
    model, lr = anysr.load(exported[0]), torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    for i, size in enumerate([(37, 50), (90, 101)]):
        with torch.no_grad():
            expected = (model(lr, size=size).clamp(0, 1) * 255)[0].permute(1, 2, 0).numpy()
        assert np.abs(np.load(tmp_path / f"{i}.npy") - expected).max() < 0.5 + 255 * TOLERANCE


def test_types_of_images(exported):
    upscaler, random = Upscaler(exported[1]), np.random.default_rng(0)
    colour = random.integers(0, 65536, (8, 9, 3), dtype=np.uint16)
    assert upscaler.enlarge(colour, 2).dtype == np.uint16
    assert upscaler.enlarge(colour[..., 0], 2).shape == (16, 18)
    assert upscaler.enlarge(colour[..., :1], 2).shape == (16, 18, 1)
    assert np.array_equal(upscaler.enlarge(colour, np.array([2, 3])), upscaler.enlarge(colour, size=(16, 27)))
    bytes_of = np.asarray(colour >> 8, np.uint8)
    assert np.array_equal(upscaler.enlarge(Image.fromarray(bytes_of), 2), upscaler.enlarge(bytes_of, 2))
    assert upscaler.enlarge((colour / 65535).astype(np.float64), 2).dtype == np.float64


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"scale": 0.5}, "at least 1"),
        ({"scale": float("nan")}, "at least 1"),
        ({"scale": 1e308}, "at most 1,000,000,000"),
        ({"scale": 10**400}, "scale must be a number or"),
        ({}, "got neither"),
        ({"scale": (2, 3, 4)}, "scale must be a number or"),
        ({"scale": "much"}, "scale must be a number or"),
        ({"size": (9,)}, r"size must be \(H, W\)"),
        ({"size": (9.5, 12)}, "whole numbers"),
        ({"scale": 2, "subnet": 7}, "one of 0, 1"),
        ({"scale": 2, "image": np.zeros((4, 4, 4), np.uint8)}, "alpha"),
        ({"scale": 2, "image": np.zeros((4, 4, 3), np.int32)}, "uint8"),
        ({"scale": 2, "image": [[1, 2], [3, 4]]}, "uint8"),
        ({"scale": 2, "image": 255 * np.ones((4, 4, 3))}, r"in \[0, 1\], got 255 … 255"),
        ({"scale": 2, "image": np.array([[0.5, float("nan")]])}, "in .0, 1., got nan"),
        ({"scale": 2, "image": np.array([[0.5, -float("inf")]], np.float16)}, "in .0, 1., got -inf"),
    ],
)
def test_the_runtime_refuses(exported, arguments, reason):
    given = {"image": np.zeros((4, 5, 3), np.uint8), **arguments}
    with pytest.raises(ValueError, match=reason):
        Upscaler(exported[1]).enlarge(**given)


def test_the_runtime_refuses_other_files(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    for manifest, reason in (
        (b"[]", "no export of format 1"),
        (b'{"format": 1}', "does not describe"),
        (b'{"format": 1, "subnets": 3}', "does not describe"),
        (b'{"format": 1, "subnets": []}', "describes no network"),
        (b'{"format": 1, "subnets": [{"file": "x.onnx", "subnet": 0, "scales": [1]}]}', "does not describe"),
        (b"\xff\xfe{", "does not describe"),
        (b"{}", "no export of format 1"),
    ):
        (tmp_path / "manifest.json").write_bytes(manifest)
        with pytest.raises(ValueError, match=reason) as refused:
            Upscaler(tmp_path)
        assert type(refused.value) is ValueError
    (tmp_path / "x.onnx").write_bytes(b"junk")
    with pytest.raises(ValueError, match="cannot load"):
        Upscaler(tmp_path / "x.onnx")
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json"):
        Upscaler(tmp_path.parent)
    with pytest.raises(FileNotFoundError, match="no file"):
        Upscaler(tmp_path / "absent")


def test_a_file_says_what_it_is(exported):
    session = onnxruntime.InferenceSession(exported[1] / "subnet0.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["anysr"])
    assert (
        about | {"subnet": 0, "scales": [1, 2], "name": "mine", "encoder_channels": 4, "decoder_channels": 8} == about
    )
    assert [value.name for value in session.get_inputs()] == ["lr", "scale"]
    # No machine's folders, which the converter writes beside each node.
    assert str(ROOT).encode() not in (exported[1] / "subnet0.onnx").read_bytes()


def test_torch_export(tmp_path):
    model = network("edsr-baseline-liif-anysr")
    assert export_file(model, 1, tmp_path / "x.pt2", "pt2", "mine") < TOLERANCE
    assert str(ROOT).encode() not in (tmp_path / "x.pt2").read_bytes()
    lr, size = torch.rand(1, 3, 20, 11), torch.tensor([41, 37])
    scale = torch.tensor([41 / 20, 37 / 11], dtype=torch.float64)
    with torch.no_grad():
        given = torch.export.load(tmp_path / "x.pt2").module()(lr, scale, size)
        torch.testing.assert_close(given, model(lr, size=(41, 37), subnet=1), atol=1e-5, rtol=0)


def test_a_standalone_subnet(exported, tmp_path):
    target = tmp_path / "small.safetensors"
    assert main(["export", str(exported[0]), "-o", str(target), "--subnet", "0"]) == 0
    small, lr = anysr.load(target), torch.rand(1, 3, 8, 9)
    assert len(small.subnets) == 1
    torch.testing.assert_close(small(lr, 1.7), anysr.load(exported[0])(lr, 1.7), atol=1e-5, rtol=0)


def test_what_disagrees_is_not_kept(exported, tmp_path, monkeypatch):
    model = anysr.load(exported[0])
    monkeypatch.setattr(onnx_graph, "build_graph", lambda network: onnx_ir.load(exported[1] / "subnet1.onnx"))
    with pytest.raises(ValueError, match=r"the ONNX graph differs from the network by [\d.]+ .* its file is not kept"):
        list(export_folder(model, tmp_path / "onnx", "onnx", "mine"))
    assert list((tmp_path / "onnx").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-o", "x.onnx"], "say which with --subnet 0 … 1"),
        (["-o", "x.onnx", "--subnet", "5"], "0 … 1"),
        (["-o", "x.onnx", "--subnet", "auto"], "depends on the scale"),
        (["-o", "x.onnx", "--format", "pt2"], "writes *.pt2"),
        (["-o", "mine.safetensors/x", "--subnet", "0"], "not a directory"),
    ],
)
def test_the_command_refuses(exported, arguments, reason, capsys, monkeypatch):
    monkeypatch.chdir(exported[0].parent)
    assert main(["export", str(exported[0]), *arguments]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("scale", [1.0, 1.3, 2.37, 3.0, 5.0, 8.3])
@pytest.mark.parametrize("lr_size", [(1, 3), (17, 24), (48, 31)])
def test_places_are_those_of_the_library(lr_size, scale):
    """To the last bit: ties decide pixels."""
    lr, target = torch.rand(1, 3, *lr_size), resolve_target(lr_size, scale, None)
    queries = GridQueries(target.size)
    grid = Grid.of(lr, torch.tensor([scale] * 2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))
    assert (int(grid.height), grid.width) == target.size
    for dim in (0, 1):
        coord = pixel_centres(target.size[dim])
        for given, expected in (
            (grid.corners()[dim], axis_corners(coord, lr_size[dim])),
            (grid.containing()[dim], axis_containing(coord, queries.cell[dim], lr_size[dim])),
        ):
            assert torch.equal(given.index, expected.index)
            assert torch.equal(given.rel, expected.rel)
    torch.testing.assert_close(grid.bilinear(lr), bilinear_rows(lr, target.size, 0, target.size[0]), atol=1e-6, rtol=0)
