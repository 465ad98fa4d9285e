"""The fast decoders against the textbook: answers and gradients, at every width, size and scale."""

from __future__ import annotations

import sys
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import anysr.decoders.grid as grid_module
from anysr import AnySR, EdsrConfig, InterweaveConfig, LiifConfig, MetaSrConfig, ModelConfig, SrnoConfig, SubnetConfig
from anysr.decoders import DECODERS, Decoder, DecoderConfig, Srno, galerkin
from anysr.fast_linear import FastLinear
from anysr.geometry import GridQueries, PointQueries, bilinear
from anysr.interweave import tap_sums
from anysr.slimmable import copy_prefixes
from tests import textbook, textbook_encoders

FEAT = 6
CONFIGS: dict[str, DecoderConfig] = {
    "liif": LiifConfig(hidden=32, num_layers=3),
    "liif-skip": LiifConfig(hidden=32, num_layers=2, skip="bilinear"),
    "liif-fading": LiifConfig(hidden=32, num_layers=2, skip="bilinear", fade_in=0.5),
    "srno": SrnoConfig(hidden=32, head_channels=8),
    "srno-one-block": SrnoConfig(hidden=32, head_channels=16, num_blocks=1),
    "metasr": MetaSrConfig(hidden=32),
}
WIDTHS = (16, 32)
CASES = (
    ((7, 9), (14, 18)),  # whole factors
    ((5, 8), (6, 10)),  # x1.2
    ((7, 9), (19, 24)),  # x2.7
    ((6, 5), (18, 31)),  # asymmetric
    ((5, 7), (30, 42)),  # x6; odd, where queries fall between pixels
    ((4, 3), (4, 3)),
    ((1, 1), (3, 2)),
    ((1021, 2), (3063, 4)),  # long sides, where coordinates in float32 are off their ideal places
    ((2, 2040), (3, 4080)),
)


def make(kind: str) -> Decoder:
    torch.manual_seed(0)
    config = CONFIGS[kind]
    decoder: Decoder = DECODERS[config.kind][1](config, FEAT)
    for name, parameter in decoder.named_parameters():
        if "ln." in name:  # norms start as the identity, which would hide mistakes
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
        elif not parameter.any():  # and so would a residual of nothing
            torch.nn.init.normal_(parameter, std=0.1)
    return decoder.eval()


def inputs(lr_size: tuple[int, int], batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    feat = torch.randn(batch, FEAT, *lr_size, generator=generator)
    return feat, torch.rand(batch, 3, *lr_size, generator=generator) * 2 - 1


def reference(decoder: Decoder, feat: Tensor, image: Tensor, size: tuple[int, int], width: int) -> Tensor:
    coord = textbook.make_coord(size, len(feat))
    rgb = textbook.decode(decoder, feat, image, coord, (2 / size[0], 2 / size[1]), width)
    return rgb.transpose(1, 2).reshape(len(feat), 3, *size)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("lr_size", "size"), CASES)
def test_grid_equals_textbook(kind: str, width: int, lr_size: tuple[int, int], size: tuple[int, int]) -> None:
    decoder, (feat, image) = make(kind), inputs(lr_size)
    with torch.no_grad():
        expected = reference(decoder, feat, image, size, width)
        rgb = decoder(feat, image, GridQueries(size), width)
    torch.testing.assert_close(rgb, expected, rtol=0, atol=2e-5 if max(lr_size) < 1000 else 1.2e-4)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("points", [False, True])
def test_gradients_equal_textbook(kind: str, width: int, points: bool) -> None:
    decoder, (feat, image) = make(kind), inputs((5, 6))
    size, cell = (13, 17), (2 / 13, 2 / 17)
    generator = torch.Generator().manual_seed(2)
    coord = torch.rand(2, 40, 2, generator=generator) * 2 - 1 if points else textbook.make_coord(size, 2)
    target = torch.rand(2, coord.shape[1], 3, generator=generator)

    def gradients(fast: bool) -> list[Tensor | None]:
        given = feat.clone().requires_grad_()
        if not fast:
            rgb = textbook.decode(decoder, given, image, coord, cell, width)
        elif points:
            rgb = decoder(given, image, PointQueries(coord, cell), width)
        else:
            rgb = decoder(given, image, GridQueries(size), width).flatten(2).transpose(1, 2)
        loss = (rgb - target).abs().sum()
        return [*torch.autograd.grad(loss, [given, *decoder.parameters()], allow_unused=True)]

    for ours, theirs in zip(gradients(True), gradients(False), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("kind", CONFIGS)
def test_cell_and_scale_may_be_tensors(kind: str) -> None:
    decoder, (feat, image), coord = make(kind), inputs((9, 7)), torch.rand(2, 30, 2) * 2 - 1
    cell, scale = (2 / 20, 2 / 13), (20 / 9, 1.3)
    answers, gradients = [], []
    for given in ((cell, scale), (torch.tensor(cell), torch.tensor(scale))):
        answer = decoder(feat, image, PointQueries(coord, *given), WIDTHS[0])
        gradients.append(torch.autograd.grad(answer.square().sum(), list(decoder.parameters()), allow_unused=True))
        answers.append(answer)
    torch.testing.assert_close(answers[1], answers[0], rtol=0, atol=1e-6)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_residual_fades_towards_the_input() -> None:
    decoder, (feat, image) = make("liif-fading"), inputs((9, 7))
    whole = make("liif-skip")
    whole.load_state_dict(decoder.state_dict())

    def residual(of: Decoder, scale: float) -> Tensor:
        queries = GridQueries((round(9 * scale), round(7 * scale)), (scale, 1.0))
        return of(feat, image, queries, 32) - bilinear(image, queries)

    for scale, share in ((1.0, 0.0), (1.01, 0.02), (1.25, 0.5), (1.5, 1.0), (4.0, 1.0)):
        assert residual(whole, scale).abs().max() > 0.01
        torch.testing.assert_close(residual(decoder, scale), share * residual(whole, scale), atol=1e-6, rtol=1e-4)
    assert torch.equal(decoder(feat, image, GridQueries((9, 7)), 32), image)


@pytest.mark.parametrize(
    "values",
    [{"fade_in": 0.1}, {"skip": "bilinear", "fade_in": -0.1}, {"skip": "bilinear", "fade_in": float("nan")},
     {"skip": "bilinear", "fade_in": float("inf")}],
)  # fmt: skip
def test_a_fade_without_a_skip_or_a_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"decoder\.fade_in must be 0, or positive beside decoder\.skip=bilinear"):
        LiifConfig(**values)


@pytest.mark.parametrize("kind", CONFIGS)
def test_points_equal_grid(kind: str) -> None:
    decoder, (feat, image) = make(kind), inputs((6, 7))
    queries = GridQueries((15, 20))
    with torch.no_grad():
        grid = decoder(feat, image, queries, 32)
        points = decoder(feat, image, queries.as_points(2, feat.device), 32)
    torch.testing.assert_close(queries.as_image(points), grid, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("pixels", [7, 33, 4096])
def test_blocks_and_strips_do_not_show(kind: str, pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, (feat, image) = make(kind), inputs((9, 7))
    queries = GridQueries((25, 23))
    with torch.no_grad():
        expected = decoder(feat, image, queries, 32)
        for module in list(sys.modules.values()):
            if getattr(module, "block_pixels", None) is grid_module.block_pixels:
                monkeypatch.setattr(module, "block_pixels", lambda feat: pixels)
        monkeypatch.setattr(grid_module, "STRIP_BYTES", 1)
        monkeypatch.setattr("anysr.decoders.srno.KEPT_BYTES", 20000)
        rgb = decoder(feat, image, queries, 32)
    torch.testing.assert_close(rgb, expected, rtol=0, atol=1e-5)


def test_scattered_queries_without_gradients_keep_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, (feat, image) = make("liif"), inputs((9, 7))
    answers: list[weakref.ref[Tensor]] = []
    most, layer = 0, FastLinear.__call__

    def watched(self: FastLinear, x_QK: Tensor) -> Tensor:
        nonlocal most
        answers.append(weakref.ref(y := layer(self, x_QK)))
        most = max(most, sum(answer() is not None for answer in answers))
        return y

    monkeypatch.setattr(FastLinear, "__call__", watched)
    monkeypatch.setattr("anysr.decoders.corner_mlp.block_pixels", lambda feat: 7)
    with torch.no_grad():
        decoder(feat, image, GridQueries((25, 23)).as_points(2, feat.device), 32)
    assert len(answers) > 100
    assert most <= 2 * decoder.config.num_layers


@pytest.mark.parametrize("kind", CONFIGS)
def test_images_of_a_batch_do_not_mix(kind: str) -> None:
    decoder, (feat, image) = make(kind), inputs((5, 6), batch=3)
    queries = GridQueries((12, 13))
    with torch.no_grad():
        together = decoder(feat, image, queries, 32)
        alone = torch.cat([decoder(feat[i : i + 1], image[i : i + 1], queries, 32) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_prefix_is_a_network_of_its_own(kind: str) -> None:
    decoder, (feat, image) = make(kind), inputs((5, 6))
    config = CONFIGS[kind].narrowed(16)
    small = DECODERS[config.kind][1](config, FEAT)
    copy_prefixes(decoder, small)
    with torch.no_grad():
        torch.testing.assert_close(
            small(feat, image, GridQueries((11, 12)), 16), decoder(feat, image, GridQueries((11, 12)), 16)
        )


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("width", WIDTHS)
def test_macs_agree_with_a_counter_on_the_textbook(kind: str, width: int) -> None:
    decoder, (feat, image) = make(kind), inputs((5, 6), batch=1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        reference(decoder, feat, image, (13, 14), width)
    assert counter.get_total_flops() == 2 * decoder.macs((5, 6), (13, 14), width)


def network(kind: str) -> AnySR:
    torch.manual_seed(0)
    groups = (SubnetConfig((1.0, 4.0)),)
    return AnySR(ModelConfig(EdsrConfig(num_blocks=2, channels=16), CONFIGS[kind], InterweaveConfig(8), groups)).eval()


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("fast_bf16", [False, True])
def test_bfloat16_and_autocast_stay_close(kind: str, fast_bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anysr.fast_linear._cpu_has_fast_bf16", lambda: fast_bf16)
    model, lr = network(kind), torch.rand(2, 3, 9, 8)
    with torch.no_grad():
        expected = model(lr, 2.3)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model(lr, 2.3).float(), expected, rtol=0, atol=0.03)
        torch.testing.assert_close(model.bfloat16()(lr, 2.3).float(), expected, rtol=0, atol=0.03)


@pytest.mark.parametrize("kind", CONFIGS)
def test_autocast_copies_no_weights_of_the_right_type(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anysr.fast_linear._cpu_has_fast_bf16", lambda: False)
    monkeypatch.setattr("copy.deepcopy", None)
    model, lr, coord = network(kind), torch.rand(2, 3, 9, 8), torch.rand(2, 5, 2)
    with torch.no_grad():
        expected = model(lr, 2.3), model(lr, 2.3, coord=coord)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            assert torch.equal(model(lr, 2.3), expected[0])
            assert torch.equal(model(lr, 2.3, coord=coord), expected[1])
        for _ in model.strips(lr, 2.3):
            assert torch.is_autocast_enabled("cpu")
        model(lr, 2.3).float().sum().backward()  # what autocast keeps of the weights must know gradients
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("kind", CONFIGS)
def test_bfloat16_blocks(kind: str) -> None:
    decoder, (feat, image) = make(kind), inputs((9, 8))
    queries = GridQueries((21, 19))
    with torch.no_grad():
        expected = decoder(feat, image, queries, 32)
        rgb = decoder.bfloat16()(feat.bfloat16(), image.bfloat16(), queries, 32).float()
    assert float((rgb - expected).detach().abs().mean()) < 0.02


@pytest.mark.parametrize("kind", CONFIGS)
def test_training_under_autocast(kind: str) -> None:
    decoder, (feat, image) = make(kind), inputs((6, 6))
    queries = GridQueries((9, 9)).as_points(2, feat.device)
    expected = decoder(feat, image, queries, 32)
    with torch.autocast("cpu", torch.bfloat16):
        rgb = decoder(feat, image, queries, 32)
    rgb.float().sum().backward()
    assert float((rgb - expected).detach().abs().mean()) < 0.02
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in decoder.parameters())


@pytest.mark.parametrize("count", [3, 512, 1300])
def test_srno_sums_the_same_in_pieces_as_an_accelerator_does(count: int) -> None:
    keys, values = torch.rand(2, 1, count, 12, 16).split(6, dim=3)[0]
    pieces, plain = (sums(keys, values) for sums in (galerkin._products_in_pieces, galerkin._products))
    assert pieces.shape == plain.shape == (1, 6, 16, 16)
    torch.testing.assert_close(pieces, plain, rtol=1e-5, atol=0)


def test_srno_narrows_by_whole_heads() -> None:
    groups = (SubnetConfig((1.0, 2.0), 1.0, 0.7), SubnetConfig((2.0, 4.0)))
    config = ModelConfig(EdsrConfig(num_blocks=1, channels=8), SrnoConfig(hidden=64), None, groups)
    assert config.channels(groups[0]) == (8, 48)
    model = AnySR(config).eval()
    assert isinstance(model.decoder, Srno)
    lr = torch.rand(1, 3, 6, 7)
    with torch.no_grad():
        torch.testing.assert_close(model.extract(0)(lr, 1.5), model(lr, 1.5))


@pytest.mark.parametrize("kind", CONFIGS)
def test_configuration_round_trip(kind: str) -> None:
    config = ModelConfig(EdsrConfig(num_blocks=1, channels=8), CONFIGS[kind], None, (SubnetConfig((1.0, 4.0)),))
    assert ModelConfig.from_dict(config.to_dict()) == config


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="must be a multiple of"):
        SrnoConfig(hidden=100)


@pytest.mark.parametrize("size", [(5, 7), (1, 4), (2, 1), (1, 1)])
def test_tap_sums(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    expected = torch.nn.functional.unfold(x, 3, padding=1).sum(2).view(2, 3, 3, 3)
    torch.testing.assert_close(tap_sums(x), expected)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("width", [8, 11, 16])
def test_edsr_with_folded_gates_equals_textbook(batch: int, width: int) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        EdsrConfig(num_blocks=3, channels=16, residual_scale=0.5),
        LiifConfig(hidden=8, num_layers=1),
        InterweaveConfig(4),
    )
    encoder, image = AnySR(config).encoder, torch.rand(batch, 3, 7, 9) * 2 - 1
    expected = textbook_encoders.edsr(encoder, image, (2.3, 1.7), width)
    torch.testing.assert_close(encoder(image, (2.3, 1.7), width), expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(encoder(image, (2.3, 1.7), width), expected, rtol=0, atol=1e-5)
