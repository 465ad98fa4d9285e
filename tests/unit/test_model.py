import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save as to_bytes

import anysr
from anysr import EdsrConfig, InterweaveConfig, LiifConfig, ModelConfig, SubnetConfig

GROUPS = (
    SubnetConfig((1.0, 1.75), 0.5, 0.5),
    SubnetConfig((1.75, 2.55), 0.7, 0.75),
    SubnetConfig((2.55, 4.0)),
)


def small_model(**changes) -> anysr.AnySR:
    torch.manual_seed(0)
    values = {
        "encoder": EdsrConfig(num_blocks=2, channels=20, residual_scale=0.5),
        "decoder": LiifConfig(hidden=24, num_layers=3),
        "interweave": InterweaveConfig(interval=6),
        "subnets": GROUPS,
    }
    return anysr.build(ModelConfig(**{**values, **changes})).eval()


@pytest.mark.parametrize("lr_size", [(1, 1), (5, 7), (16, 9)])
@pytest.mark.parametrize(
    ("request_", "size"),
    [
        ({"scale": 2.37}, None),
        ({"scale": (2, 3.1)}, None),
        ({"scale": 1.0}, None),
        ({"size": (301, 455)}, (301, 455)),
        ({"size": (40, 31), "scale": 2.0}, (40, 31)),
    ],
)
@torch.no_grad()
def test_every_kind_of_request_answers_with_the_right_shape(lr_size, request_, size):
    answer = small_model()(torch.rand(3, 3, *lr_size), **request_)
    if size is None:
        scale = request_["scale"]
        pair = scale if isinstance(scale, tuple) else (scale, scale)
        size = tuple(round(n * s) for n, s in zip(lr_size, pair, strict=True))
    assert answer.shape == (3, 3, *size)
    assert answer.isfinite().all()


@torch.no_grad()
def test_a_batch_answers_as_its_images_alone():
    model, lr = small_model(), torch.rand(3, 3, 6, 8)
    together = model(lr, 2.3)
    for image, answer in zip(lr, together, strict=True):
        torch.testing.assert_close(model(image[None], 2.3)[0], answer, atol=1e-5, rtol=0)


@pytest.mark.parametrize("skip", ["none", "bilinear"])
@pytest.mark.parametrize("subnet", [0, 1, 2])
@torch.no_grad()
def test_an_extracted_subnet_answers_the_same_from_a_smaller_file(subnet, skip, tmp_path):
    model = small_model(decoder=LiifConfig(hidden=24, num_layers=3, skip=skip))
    torch.nn.init.normal_(model.decoder.layers[-1].weight)
    small = model.extract(subnet)
    lr = torch.rand(2, 3, 7, 5)
    for scale in (1.2, 2.37, (3.3, 1.1)):
        torch.testing.assert_close(small(lr, scale), model(lr, scale, subnet=subnet), atol=1e-5, rtol=0)
    anysr.save(model, tmp_path / "full.safetensors")
    anysr.save(small, tmp_path / "small.safetensors")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("small", "full")]
    assert sizes[0] < sizes[1] or subnet == 2


@torch.no_grad()
def test_the_scale_chooses_the_subnet_through_continuous_groups():
    model, lr = small_model(), torch.rand(1, 3, 6, 6)
    for scale, index in ((1.0, 0), (1.749, 0), (1.75, 1), (2.549, 1), (2.55, 2), (9.0, 2), ((1.0, 2.0), 1)):
        assert torch.equal(model(lr, scale), model(lr, scale, subnet=index)), scale
    assert torch.equal(model(lr, 1.2, subnet="full"), model(lr, 1.2, subnet=2))
    assert [s.scales for s in model.subnets] == [(1.0, 1.75), (1.75, 2.55), (2.55, 4.0)]
    assert [s.encoder_channels for s in model.subnets] == [10, 14, 20]


@torch.no_grad()
def test_nothing_is_kept_between_calls():
    model, lr = small_model(), torch.rand(1, 3, 6, 6)
    before = model(lr, 2.0)
    model(torch.rand(2, 3, 9, 4), 3.7, subnet=0)
    assert torch.equal(model(lr, 2.0), before)


@torch.no_grad()
def test_scale_beside_size_conditions_the_network_only():
    model, lr = small_model(), torch.rand(1, 3, 8, 8)
    assert torch.equal(model(lr, 2.0, (16, 16)), model(lr, size=(16, 16)))
    assert not torch.equal(model(lr, 2.4, (16, 16)), model(lr, 2.0, (16, 16)))


@torch.no_grad()
def test_save_and_load_keep_answers_and_configuration(tmp_path):
    model, lr = small_model(), torch.rand(1, 3, 6, 6)
    anysr.save(model, tmp_path / "m.safetensors")
    loaded = anysr.load(tmp_path / "m.safetensors")
    assert loaded.config == model.config
    assert torch.equal(loaded(lr, 2.2), model(lr, 2.2))


def test_a_saved_network_is_as_readable_as_any_other_file(tmp_path):
    (tmp_path / "other").touch()
    anysr.save(small_model(), tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.safetensors", "other"]


@torch.no_grad()
def test_half_storage_is_half_the_file_and_float32_again_when_read(tmp_path):
    model, lr = small_model(), torch.rand(1, 3, 6, 6)
    anysr.save(model, tmp_path / "m.safetensors")
    anysr.save(model, tmp_path / "h.safetensors", half=True)
    loaded = anysr.load(tmp_path / "h.safetensors")
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[name].half().float())
    torch.testing.assert_close(loaded(lr, 2.2), model(lr, 2.2), atol=2e-3, rtol=0)
    tensors = sum(2 * p.numel() for p in model.parameters())
    sizes = [(tmp_path / name).stat().st_size for name in ("m.safetensors", "h.safetensors")]
    assert sizes[0] - sizes[1] == pytest.approx(tensors, abs=2000)
    model.encoder.head.weight.data[0, 0, 0, 0] = 1e5
    with pytest.raises(ValueError, match=r"encoder\.head\.weight.*65,504"):
        anysr.save(model, tmp_path / "h.safetensors", half=True)


@pytest.mark.parametrize("name", anysr.list_pretrained())
def test_networks_in_the_box_load_by_name_and_leave_their_input_alone_at_1(name):
    model = anysr.load(name)
    rows = torch.linspace(0, 1, 24)[:, None].expand(24, 20)
    lr = torch.stack([rows, rows.flip(0), 0.5 + 0.3 * torch.sin(8 * rows)])[None]
    with torch.no_grad():
        assert (model(lr, 1.0) - lr).abs().mean() < 0.01
        assert model(lr, 2.37).shape == (1, 3, 57, 47)


def test_a_file_comes_before_the_box_and_an_unknown_name_is_told_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr("anysr.serialization._PRETRAINED", tmp_path / "box")
    anysr.save(small_model(), tmp_path / "box" / "boxed.safetensors")
    assert anysr.list_pretrained() == ["boxed"]
    assert anysr.load("boxed").config == small_model().config
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boxed").write_bytes(b"mine")
    with pytest.raises(ValueError, match="boxed is not a readable"):
        anysr.load("boxed")
    with pytest.raises(FileNotFoundError, match="in the box: boxed"):
        anysr.load("bocksed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "neither"),
        ({"scale": 0.5}, "at least 1"),
        ({"scale": float("nan")}, "at least 1"),
        ({"scale": (2, 3, 4)}, "s_h, s_w"),
        ({"scale": ("2", 3)}, "s_h, s_w"),
        ({"scale": (2, True)}, "s_h, s_w"),
        ({"scale": 2, "coord": [[[0.0, 0.0]]]}, "coord must be a tensor .*got a list"),
        ({"size": (0, 5)}, "numbers from 1 to"),
        ({"size": (3, 3)}, "over an input"),
        ({"scale": 2, "subnet": 7}, "0 … 2"),
        ({"scale": 2, "subnet": "wide"}, "auto"),
        ({"scale": 2, "subnet": True}, "got True"),
        ({"scale": 2, "subnet": 1.0}, r"got 1\.0"),
    ],
)
def test_bad_requests_say_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        small_model()(torch.rand(1, 3, 6, 6), **arguments)


@pytest.mark.parametrize("lr", [torch.rand(3, 6, 6), torch.rand(1, 1, 6, 6), torch.rand(1, 3, 0, 4), None])
def test_bad_images_are_refused(lr):
    with pytest.raises(ValueError, match=r"\(N, 3, h, w\)"):
        small_model()(lr, 2.0)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_refused(value, mode):
    lr = torch.rand(1, 3, 6, 6)
    lr[0, 1, 2, 3] = value
    with mode(), pytest.raises(ValueError, match="lr holds NaN or infinity"):
        small_model()(lr, 2.0)


def test_8_bit_images_are_refused_with_the_mend():
    with pytest.raises(ValueError, match="divide 8-bit images by 255"):
        small_model()(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 2.0)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    anysr.save(small_model(), path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"not a model", b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"m\.safetensors"):
            anysr.load(path)
    with pytest.raises(FileNotFoundError, match="no model file"):
        anysr.load(tmp_path / "absent.safetensors")


def test_a_description_alone_takes_no_memory(tmp_path):
    config = small_model().config.to_dict()
    config["encoder"]["channels"] = 10**5
    description = json.dumps({"format": 1, "config": config})
    (tmp_path / "m.safetensors").write_bytes(to_bytes({"a": torch.zeros(1)}, {"anysr": description}))
    with pytest.raises(ValueError, match="do not fit: missing: "):
        anysr.load(tmp_path / "m.safetensors")
    whole = {name: tensor.to(torch.int8) for name, tensor in small_model().state_dict().items()}
    description = json.dumps({"format": 1, "config": small_model().config.to_dict()})
    (tmp_path / "m.safetensors").write_bytes(to_bytes(whole, {"anysr": description}))
    with pytest.raises(ValueError, match=r"of another kind: .* is torch\.int8"):
        anysr.load(tmp_path / "m.safetensors")


def test_what_torch_wraps_is_saved_as_itself(tmp_path):
    for wrapped in (torch.compile(small_model()), torch.nn.DataParallel(small_model())):
        anysr.save(wrapped, tmp_path / "m.safetensors")
        assert anysr.load(tmp_path / "m.safetensors").config == small_model().config
    with pytest.raises(TypeError, match=r"writes AnySR networks, .*, got Linear"):
        anysr.save(torch.nn.Linear(1, 1), tmp_path / "m.safetensors")


@pytest.mark.parametrize("pair", [{1, 2}, frozenset({1.5, 2}), {2: "", 3: ""}, {2: "", 3: ""}.keys()])
def test_pairs_without_an_order_are_refused(pair):
    with pytest.raises(ValueError, match=r"scale must be a number or \(s_h, s_w\), got "):
        small_model()(torch.rand(1, 3, 4, 4), pair)
    with pytest.raises(ValueError, match=r"size must be \(H, W\)"):
        small_model()(torch.rand(1, 3, 1, 1), size=pair)


@pytest.mark.parametrize("shape", [(2, 5, 2), (5, 2), (1, 5, 3)])
def test_places_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"coord must be \(N, Q, 2\)"):
        small_model()(torch.rand(1, 3, 4, 4), 2.0, coord=torch.zeros(shape))


def test_places_may_be_of_any_layout_but_want_no_gradients():
    model, lr, coord = small_model(), torch.rand(1, 3, 6, 7), torch.rand(1, 5, 2) * 2 - 1
    expected = model(lr, 2.0, coord=coord)
    assert torch.equal(model(lr, 2.0, coord=coord.double().transpose(1, 2).contiguous().transpose(1, 2)), expected)
    with pytest.raises(ValueError, match="without gradients with respect to coord"):
        model(lr, 2.0, coord=coord.requires_grad_())


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("edsr-baseline-liif", {"decoder": {"skip": "bicubic"}}, r"decoder\.skip"),
        ("edsr-baseline-liif", {"encoder": {"block_channels": 0}}, r"encoder\.block_channels"),
        ("rcan-liif", {"encoder": {"block_channels": 0}}, r"encoder\.block_channels"),
        ("edsr-baseline-liif", {"encoder": {"residual_scale": float("nan")}}, r"encoder\.residual_scale"),
        ("rdn-liif", {"encoder": {"narrow_growth": -1}}, r"encoder\.narrow_growth"),
        ("rdn-liif", {"interweave": 3}, r"model\.interweave"),
        ("rdn-liif", {"encoder": {"columns": "own", "narrow_growth": 65}}, r"encoder\.narrow_growth must be at most"),
        ("rdn-liif", {"encoder": {"num_blocks": 2.5}}, r"model\.encoder\.num_blocks must be a whole number, got 2\.5"),
        ("rdn-liif", {"encoder": None}, r"model\.encoder must be a mapping"),
        ("rdn-liif", {"decoder": {"hidden": "8"}}, r"model\.decoder\.hidden"),
        ("rdn-liif", {"width_multiple": "8"}, r"model\.width_multiple must be a whole number, got '8'"),
        ("rdn-liif", {"interweave": {"parity_sign": "no"}}, r"parity_sign must be true or false, got 'no'"),
        ("rdn-liif", {"colour": None}, r"model\.colour must be a mapping"),
        ("rdn-liif", {"colour": {"to_rgb": [[1, 0, 0]] * 3}}, r"model\.colour\.to_rgb must be a list of 3"),
        ("rdn-liif", {"subnets": None}, r"model\.subnets must be a list"),
        ("rdn-liif", {"subnets": [5]}, r"model\.subnets\[0\] must be a mapping, got 5"),
        ("rdn-liif", {"subnets": [{}]}, r"model\.subnets\[0\] must hold scales, got \{\}"),
        ("rdn-liif", {"subnets": [{"scales": [1, 2, 3]}]}, r"model\.subnets\[0\]\.scales must be a list of 2"),
        (None, {}, "model must be a mapping"),
        (5, {}, "model must be a mapping"),
    ],
)
def test_values_that_mean_nothing_are_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        anysr.build(name, **changes)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (EdsrConfig, {"num_blocks": "3"}, r"encoder\.num_blocks must be a whole number, got '3'"),
        (anysr.RcanConfig, {"num_groups": None}, r"encoder\.num_groups must be a whole number, got None"),
        (anysr.RdnConfig, {"channels": 64.0}, r"encoder\.channels must be a whole number, got 64\.0"),
        (anysr.RgbConfig, {"kind": "edsr"}, r"encoder\.kind must be \"rgb\", got 'edsr'"),
        (LiifConfig, {"hidden": [256]}, r"decoder\.hidden must be a whole number, got \[256\]"),
        (anysr.SrnoConfig, {"hidden": "256"}, r"decoder\.hidden must be a whole number"),
        (anysr.MetaSrConfig, {"hidden": True}, r"decoder\.hidden must be a whole number, got True"),
        (anysr.ArbSrConfig, {"bottleneck": "8"}, r"decoder\.bottleneck must be a whole number"),
        (anysr.PixelShuffleConfig, {"factor": "2"}, r"decoder\.factor must be a whole number, got '2'"),
        (anysr.EcbsrConfig, {"factor": 2.5}, r"decoder\.factor must be a whole number, got 2\.5"),
        (anysr.EcbsrConfig, {"colours": 2}, r"decoder\.colours must be 1 or 3, got 2"),
        (anysr.VdsrConfig, {"colours": 2}, r"decoder\.colours must be 1 or 3, got 2"),
        (InterweaveConfig, {"interval": "16"}, r"interweave\.interval must be a whole number"),
        (SubnetConfig, {"scales": (1, 4), "encoder_width": "0.5"}, r"encoder_width must be a number, got '0\.5'"),
        (ModelConfig, {"encoder": {"kind": "rdn"}}, r"model\.encoder is a mapping .* ModelConfig\.from_dict"),
    ],
)
def test_values_of_another_type_are_refused_as_a_configuration_is_made(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)


def test_what_is_no_network_no_path_or_no_device_is_refused():
    with pytest.raises(TypeError, match=r"AnySR takes a ModelConfig, got 'rdn-liif'; anysr\.build takes names"):
        anysr.AnySR("rdn-liif")
    with pytest.raises(TypeError, match=r"cost is told of a network, .*, got 'rdn-liif'"):
        anysr.cost("rdn-liif", (8, 8), 2)
    for nothing in (None, io.BytesIO()):
        with pytest.raises(TypeError, match="a model file is given by its path"):
            anysr.load(nothing)
        with pytest.raises(TypeError, match="a model file is given by its path"):
            anysr.save(small_model(), nothing)
    with pytest.raises(ValueError, match=r"device must be .*, got .gpu"):
        anysr.load("anysr-tiny", device="gpu")


def test_the_cost_of_a_compiled_network_is_its_own():
    model = small_model()
    assert anysr.cost(torch.compile(model), (8, 8), 2) == anysr.cost(model, (8, 8), 2)


@torch.no_grad()
@pytest.mark.parametrize("name", ["edsr-baseline-liif", "edsr-baseline-srno", "edsr-baseline-metasr"])
def test_double_precision_answers_as_single(name):
    model, lr = anysr.build(name, encoder={"num_blocks": 1}).eval(), torch.rand(1, 3, 9, 8)
    expected = model(lr, 2.3)
    torch.testing.assert_close(model.double()(lr.double(), 2.3), expected, atol=1e-5, rtol=0)
    with torch.enable_grad():
        assert model(lr.double(), 2.3).dtype == torch.float32


@pytest.fixture
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("name", ["edsr-baseline-liif", "edsr-baseline-srno", "edsr-baseline-metasr", "edsr-arbsr"])
def test_another_default_type_changes_nothing(name, float64_by_default):
    model = anysr.build(name, encoder={"num_blocks": 1, "channels": 8, "adapt_every": 0}).eval()
    lr = torch.rand(1, 3, 5, 4)
    for scale in (2, 2.3):
        answer = model(lr, scale)
        assert answer.dtype == torch.float32
        assert (model.float()(lr.float(), scale) - answer).abs().max() < 1e-5
        model.double()


def test_what_is_frozen_stays_frozen():
    model = small_model()
    model.encoder.requires_grad_(False)
    frozen = {name: weight.requires_grad for name, weight in model.named_parameters()}
    assert {name: weight.requires_grad for name, weight in model.extract(0).named_parameters()} == frozen
    fixed = anysr.build("ecbsr-m4c16-x2").requires_grad_(False)
    assert not any(weight.requires_grad for weight in fixed.fuse().parameters())


def test_one_subnet_is_extracted():
    with pytest.raises(ValueError, match="\"full\" or 0 … 2, got 'auto'"):
        small_model().extract("auto")


def test_groups_and_widths_are_checked():
    one, two = SubnetConfig((1.0, 2.0), 0.5), SubnetConfig((2.0, 4.0))
    with pytest.raises(ValueError, match="leave a hole"):
        ModelConfig(subnets=(one, SubnetConfig((2.5, 4.0))))
    with pytest.raises(ValueError, match="overlap"):
        ModelConfig(subnets=(one, SubnetConfig((1.5, 4.0))))
    with pytest.raises(ValueError, match="must grow"):
        ModelConfig(subnets=(SubnetConfig((1.0, 2.0)), two))
    with pytest.raises(ValueError, match="full network"):
        ModelConfig(subnets=(one,))
    with pytest.raises(ValueError, match="did you mean 'num_blocks'"):
        ModelConfig.from_dict({"encoder": {"kind": "edsr", "num_block": 3}})


def test_the_library_loads_a_model_without_the_training_system(tmp_path):
    anysr.save(small_model(), tmp_path / "m.safetensors")
    code = f"""
import sys
for name in ("ray", "mlflow", "albumentations", "boto3", "pydantic", "yaml", "PIL", "rich", "matplotlib"):
    sys.modules[name] = None  # importing it raises ImportError
import anysr, torch
model = anysr.load({str(tmp_path / "m.safetensors")!r})
assert model(torch.rand(1, 3, 5, 7), 2.37).shape == (1, 3, 12, 17)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@torch.no_grad()
def test_bfloat16_answers_nearly_the_same():
    model, lr = small_model(), torch.rand(1, 3, 12, 12)
    exact = model(lr, 2.5)
    rounded = model.bfloat16()(lr, 2.5)
    assert rounded.dtype == torch.float32
    assert (exact - rounded).abs().max() < 0.02


@torch.no_grad()
def test_numbers_of_other_libraries_are_numbers():
    model, lr = small_model(), torch.rand(1, 3, 6, 6)
    expected = model(lr, 2.5, subnet=1)
    for scale in (
        np.float32(2.5),
        torch.tensor(2.5),
        (np.float64(2.5), 2.5),
        np.array([2.5, 2.5]),
        torch.full((2,), 2.5),
    ):
        assert torch.equal(model(lr, scale, subnet=1), expected)
    assert model(lr, np.int64(2)).shape == (1, 3, 12, 12)
    assert torch.equal(model(lr, 2.5, subnet=np.int64(1)), expected)
    assert small_model(decoder=LiifConfig(hidden=np.int64(24), num_layers=3)).config == model.config
    assert model(lr, size=(np.int64(20), np.int32(22))).shape == (1, 3, 20, 22)
    for wrong in ("2.5", "25", np.array([2.5]), np.array([2, 2.5, 3]), 10**400, True):
        with pytest.raises(ValueError, match=r"scale must be a number or \(s_h, s_w\)"):
            model(lr, wrong)
    for wrong in (1e308, np.inf, np.nan, 0.5, (2, 1.1e9)):
        with pytest.raises(ValueError, match="at least 1 and at most 1,000,000,000"):
            model(lr, wrong)
    with pytest.raises(ValueError, match="whole numbers from 1 to 1,000,000,000"):
        model(lr, size=(10**400, 7))
