"""The kernels for GPUs, run by Triton's interpreter: the same answers as torch's operators, wherever blocks are cut.

Where there is a GPU, tests/test_cuda.py runs them there.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch
from torch import Tensor

from anysr.decoders import DecoderConfig, LiifConfig, SrnoConfig
from anysr.decoders.galerkin import Galerkin
from anysr.geometry import GridQueries
from anysr.native import gpu
from tests.unit.test_kernels import make_decoder

CONFIGS: dict[str, DecoderConfig] = {
    "liif": LiifConfig(hidden=20, num_layers=3),
    "liif-one-layer": LiifConfig(hidden=16, num_layers=1),
    "srno": SrnoConfig(hidden=48),
    "srno-heads-of-32": SrnoConfig(hidden=64, num_blocks=1, head_channels=32),
    "srno-heads-of-8": SrnoConfig(hidden=24, head_channels=8),
}


@pytest.fixture
def kernels() -> ModuleType:
    pytest.importorskip("triton", reason="PyTorch brings no Triton here")
    if torch.cuda.is_available():
        pytest.skip("kernels are compiled here, for tensors of the GPU")
    return importlib.import_module("anysr.native.gpu_kernels")


def use(monkeypatch: pytest.MonkeyPatch, kernels: ModuleType | None) -> None:
    monkeypatch.setattr("anysr.native.gpu.gpu_kernels", lambda like: kernels)
    monkeypatch.setattr("anysr.native.gpu._fused", lambda module, width, *_: gpu.FusedLiif(module, width, 16))
    for decoder in ("liif", "srno"):
        monkeypatch.setattr(f"anysr.decoders.{decoder}.parts_for", lambda feat: None)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(("lr_size", "size"), [((5, 3), (12, 7)), ((3, 4), (4, 13)), ((1, 1), (3, 2))])
@torch.no_grad()
def test_decoders(
    kind: str, lr_size: tuple[int, int], size: tuple[int, int], kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, width = make_decoder(CONFIGS[kind]), CONFIGS[kind].slim_channels
    feat, image = torch.randn(2, 24, *lr_size), torch.rand(2, 3, *lr_size)
    use(monkeypatch, None)
    expected = decoder(feat, image, GridQueries(size), width)
    use(monkeypatch, kernels)
    torch.testing.assert_close(decoder(feat, image, GridQueries(size), width), expected, rtol=0, atol=1e-6)
    half = decoder.half()(feat.half(), image.half(), GridQueries(size), width)
    torch.testing.assert_close(half, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("kind", ["liif", "srno"])
@torch.no_grad()
def test_strips_do_not_show(kind: str, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, width = make_decoder(CONFIGS[kind]).half(), CONFIGS[kind].slim_channels
    feat, image, queries = torch.randn(1, 24, 9, 3).half(), torch.rand(1, 3, 9, 3).half(), GridQueries((23, 5))
    use(monkeypatch, kernels)
    whole = decoder(feat, image, queries, width)
    monkeypatch.setattr("anysr.decoders.grid.STRIP_BYTES", 1)
    monkeypatch.setattr("anysr.decoders.corner_lift.block_pixels", lambda feat: 2 * 17)
    torch.testing.assert_close(decoder(feat, image, queries, width), whole, rtol=0, atol=5e-4)


@pytest.mark.parametrize("width", [20, 300])
@torch.no_grad()
def test_weighted_rows(width: int, kernels: ModuleType) -> None:
    table, index, share = torch.randn(11, width), torch.randint(11, (37, 3)), torch.rand(37, 3)
    rows = gpu.weighted_rows(kernels, table, index, share)
    torch.testing.assert_close(rows, (table[index] * share[..., None]).sum(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2047, 2100])
@torch.no_grad()
def test_moments(count: int, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    attention, rows = Galerkin(32, 16), torch.randn(2, count, 64)
    use(monkeypatch, kernels)
    ours = attention.moments(rows.clone(), 32)
    use(monkeypatch, None)
    theirs = attention.moments(rows.clone(), 32)
    assert ours.count == theirs.count
    torch.testing.assert_close(ours.product, theirs.product, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(ours.sums, theirs.sums, rtol=1e-5, atol=1e-3)


def test_tensors_of_the_cpu_and_gradients_take_the_plain_path() -> None:
    with torch.no_grad():
        assert gpu.gpu_kernels(torch.zeros(1)) is None


def test_a_kernel_that_does_not_fit_is_told_once_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneGpu:
        shared_memory_per_block_optin = 232448

    def refuse(*given: object) -> None:
        raise RuntimeError("out of resource: shared memory")

    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: OneGpu())
    monkeypatch.setattr("anysr.native.gpu.gpu_kernels", lambda like: ModuleType("kernels"))
    monkeypatch.setattr(gpu.FusedLiif, "try_out", refuse)
    feat = torch.zeros(1, dtype=torch.float16)
    with pytest.warns(UserWarning, match="plain path is used: out of resource: shared memory; ANYSR_KERNELS=off"):
        assert gpu.FusedLiif.of(feat, 256) is None
    assert gpu.FusedLiif.of(feat, 257) is None
    assert gpu.FusedLiif.of(feat.float(), 64) is None


def test_where_triton_is_missing_the_plain_path_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*given: Tensor) -> Tensor:
        raise ImportError("No module named 'triton'")

    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("anysr.native.gpu.weighted_rows", missing)
    gpu._kernels_for.cache_clear()
    try:
        with pytest.warns(UserWarning, match="kernels for the GPU are off, the plain path is used: No module named"):
            assert gpu._kernels_for(torch.device("cpu")) is None
    finally:
        gpu._kernels_for.cache_clear()
