"""The compiled kernels against torch's operators, in every way that this processor multiplies."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import anysr
from anysr.decoders import DECODERS, Decoder, DecoderConfig, LiifConfig, SrnoConfig
from anysr.geometry import GridQueries
from anysr.native import library
from anysr.native.fused import PackedLayers, conv3x3, linear, padded, weight_gradient
from anysr.upscaling.measure import cached_profile
from pipeline.evaluation.perceptual import default_weights
from pipeline.storage.cache import cache_root

CONFIGS: dict[str, DecoderConfig] = {
    "liif": LiifConfig(hidden=48, num_layers=3),
    "liif-one-layer": LiifConfig(hidden=20, num_layers=1),
    "srno": SrnoConfig(hidden=48),
    "srno-one-block": SrnoConfig(hidden=32, num_blocks=1),
    "srno-three-blocks": SrnoConfig(hidden=64, num_blocks=3),
}
TOLERANCE = {0: 1e-5, 3: 1e-5, 2: 2e-4, 1: 0.06}


@pytest.fixture(params=TOLERANCE)
def parts(request: pytest.FixtureRequest) -> Iterator[int]:
    kernels = library.kernels()
    if kernels is None:
        pytest.skip("no compiled kernels here: they need AVX-512 and a C++ compiler")
    if request.param and not kernels.anysr_has_tiles():
        pytest.skip("this processor has no AMX tiles")
    with torch.no_grad():
        yield request.param


def dtype_of(parts: int) -> torch.dtype:
    return torch.bfloat16 if parts == 1 else torch.float32


@pytest.mark.parametrize(("rows", "num_in", "num_out"), [(1, 5, 16), (130, 64, 48), (300, 40, 96)])
def test_linear(parts: int, rows: int, num_in: int, num_out: int) -> None:
    x, weight, bias = torch.randn(rows, num_in), torch.randn(num_out, num_in) / num_in**0.5, torch.randn(num_out)
    y = linear(x.to(dtype_of(parts)), PackedLayers([(weight, bias)], parts), parts)
    torch.testing.assert_close(y.float(), F.linear(x, weight, bias), rtol=0, atol=TOLERANCE[parts])


@pytest.mark.parametrize(("channels", "num_out"), [(3, 5), (44, 64), (64, 44), (17, 40)])
@pytest.mark.parametrize("size", [(1, 1), (9, 70), (33, 17)])
def test_convolution(parts: int, channels: int, num_out: int, size: tuple[int, int]) -> None:
    x, skip = torch.randn(2, channels, *size), torch.randn(2, num_out, *size)
    weight, bias = torch.randn(num_out, channels, 3, 3) / (9 * channels) ** 0.5, torch.randn(num_out)
    expected = skip + 0.3 * torch.relu(F.conv2d(x, weight, bias, padding=1))
    given, added = (t.permute(0, 2, 3, 1).contiguous().to(dtype_of(parts)) for t in (x, skip))
    y = conv3x3(given, weight, bias, parts, relu=True, skip_BhwN=added, factor=0.3)
    torch.testing.assert_close(y.float().permute(0, 3, 1, 2), expected, rtol=0, atol=TOLERANCE[parts])


def make(kind: str) -> Decoder:
    return make_decoder(CONFIGS[kind])


def make_decoder(config: DecoderConfig) -> Decoder:
    """For features of 24 channels, every part of it of consequence."""
    torch.manual_seed(0)
    decoder: Decoder = DECODERS[config.kind][1](config, 24)
    for name, parameter in decoder.named_parameters():
        if "ln." in name:  # norms start as the identity, which would hide mistakes
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return decoder.eval()


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    ("lr_size", "size"), [((7, 9), (14, 18)), ((13, 11), (35, 31)), ((5, 7), (30, 42)), ((1, 1), (3, 2))]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_decoders(
    kind: str,
    parts: int,
    lr_size: tuple[int, int],
    size: tuple[int, int],
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder, feat, image = make(kind), torch.randn(2, 24, *lr_size), torch.rand(2, 3, *lr_size)
    width = CONFIGS[kind].slim_channels
    choose_parts(monkeypatch, None)
    expected = decoder(feat, image, GridQueries(size), width)
    choose_parts(monkeypatch, parts)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        low = [t.to(dtype_of(parts)) for t in (feat, image)]
        rgb = decoder.to(dtype_of(parts))(*low, GridQueries(size), width)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(rgb.float(), expected, rtol=0, atol=TOLERANCE[parts])


@pytest.mark.parametrize("kept_bytes", [0, 70000, 10**8])
@pytest.mark.parametrize("kind", ["srno", "srno-one-block", "srno-three-blocks"])
def test_strips_and_kept_states_do_not_show(
    kind: str, kept_bytes: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, feat, image = make(kind), torch.randn(1, 24, 19, 11), torch.rand(1, 3, 19, 11)
    size, width = GridQueries((41, 70)), CONFIGS[kind].slim_channels
    choose_parts(monkeypatch, None)
    expected = decoder(feat, image, size, width)
    choose_parts(monkeypatch, parts)
    monkeypatch.setattr("anysr.decoders.grid.STRIP_BYTES", 1)
    monkeypatch.setattr("anysr.decoders.srno_fused.KEPT_BYTES", kept_bytes)
    low = [t.to(dtype_of(parts)) for t in (feat, image)]
    rgb = decoder.to(dtype_of(parts))(*low, size, width)
    torch.testing.assert_close(rgb.float(), expected, rtol=0, atol=TOLERANCE[parts])


@pytest.mark.parametrize(("channels", "num_out"), [(3, 5), (44, 64), (70, 17)])
@pytest.mark.parametrize("size", [(1, 1), (40, 70), (33, 17), (1, 900)])
@pytest.mark.parametrize("taps", [1, 9])
def test_weight_gradient(parts: int, channels: int, num_out: int, size: tuple[int, int], taps: int) -> None:
    x, grad = (
        torch.randn(3, c, *size).to(dtype_of(parts)) / (3 * size[0] * size[1]) ** 0.25 for c in (channels, num_out)
    )
    side = int(taps**0.5)
    weight = torch.zeros(num_out, channels, side, side)
    expected = torch.nn.grad.conv2d_weight(x.double(), weight.shape, grad.double(), padding=side // 2).float()
    given = [t.permute(0, 2, 3, 1).contiguous() for t in (x, grad)]
    ours, bias = weight_gradient(*given, taps, parts)
    torch.testing.assert_close(ours.reshape(weight.shape), expected, rtol=0, atol=min(TOLERANCE[parts], 2e-4))
    torch.testing.assert_close(bias, grad.float().sum((0, 2, 3)), rtol=1e-5, atol=1e-4)
    again, _ = weight_gradient(*given, taps, parts)
    assert torch.equal(ours, again)


@pytest.mark.parametrize("taps", [1, 9])
def test_weight_gradient_of_a_very_wide_image(parts: int, taps: int) -> None:
    x, grad = torch.ones(1, 1, 150_000, 3, dtype=dtype_of(parts)), torch.ones(1, 1, 150_000, 5, dtype=dtype_of(parts))
    weight, bias = weight_gradient(x, grad, taps, parts)
    middle = weight.reshape(5, 3, taps)[..., taps // 2]
    assert torch.equal(middle, torch.full((5, 3), 150_000.0))
    assert torch.equal(bias, torch.full((5,), 150_000.0))


def choose_parts(monkeypatch: pytest.MonkeyPatch, parts: int | None) -> None:
    for name in ("liif", "srno"):
        monkeypatch.setattr(f"anysr.decoders.{name}.parts_for", lambda feat: parts)


def test_several_threads_at_once(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_parts(monkeypatch, parts)
    decoder = make("srno").to(dtype_of(parts))
    feat, image = (torch.randn(1, c, 12, 13).to(dtype_of(parts)) for c in (24, 3))
    answers: list[torch.Tensor] = []

    def enlarge() -> None:
        with torch.no_grad():
            answers.append(decoder(feat, image, GridQueries((30, 31)), 48))

    threads = [threading.Thread(target=enlarge) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], rtol=0, atol=1e-5)


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYSR_KERNELS", "off")
    assert library.kernels() is None


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 1\n", None])
def test_without_a_working_compiler(script: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "compiler"
    if script:
        compiler.write_text(script)
        compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(library.shutil, "which", lambda name: str(compiler) if script else None)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_f": True})
    library._load.cache_clear()
    try:
        if script:
            with pytest.warns(UserWarning, match="compiled kernels are off"):
                assert library.kernels() is None
        assert library.kernels() is None
    finally:
        library._load.cache_clear()


def test_padding() -> None:
    assert [padded(n) for n in (1, 32, 33)] == [32, 32, 64]


def test_all_that_is_kept_lies_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for variable, root in (("ANYSR_CACHE", "xdg/anysr"), ("XDG_CACHE_HOME", "home/.cache/anysr")):
        monkeypatch.delenv(variable)
        assert library._cache_folder() == cache_root() == tmp_path / root
        assert tmp_path / root in cached_profile("digest", torch.device("cpu")).parents
        assert default_weights().parent == tmp_path / root
    assert cache_root(Path("~/kept")) == tmp_path / "home/kept"
    monkeypatch.setenv("ANYSR_CACHE", "~/all")
    assert library._cache_folder() == cache_root() == tmp_path / "home/all"


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*:DeprecationWarning")
@pytest.mark.parametrize("name", ["edsr-baseline-liif", "edsr-baseline-srno"])
@torch.no_grad()
def test_a_trace_sees_no_kernels(name: str) -> None:
    class AtOneSize(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = anysr.build(name, encoder={"num_blocks": 1}, decoder={"hidden": 32}).eval()

        def forward(self, lr: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.model(lr, 2.0, (14, 18))
            return answer

    network, lr = AtOneSize(), torch.rand(1, 3, 7, 9)
    traced = torch.jit.trace(network, torch.rand(1, 3, 7, 9), check_trace=False)
    torch.testing.assert_close(traced(lr), network(lr), rtol=0, atol=1e-5)
