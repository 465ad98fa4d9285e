"""The kernels for GPUs, run by Triton's interpreter: the same answers as torch's operators, wherever blocks are cut.

Where there is a GPU, tests/test_cuda.py runs them there.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from anysr.decoders import DecoderConfig, LiifConfig, SrnoConfig
from anysr.decoders.galerkin import Galerkin
from anysr.geometry import GridQueries
from anysr.native import gpu
from tests.unit.test_kernels import make_decoder

CPU = torch.device("cpu")
CONFIGS: dict[str, DecoderConfig] = {
    "liif": LiifConfig(hidden=20, num_layers=3),
    "liif-one-layer": LiifConfig(hidden=16, num_layers=1),
    "srno": SrnoConfig(hidden=48),
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
    monkeypatch.setattr("anysr.decoders.corner_lift._KERNEL_PIXELS", 17)
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
    with pytest.warns(UserWarning, match="the GPU's kernel of LIIF is off, torch's operators do the same: out of reso"):
        assert gpu.FusedLiif.of(feat, 256) is None
    assert gpu.FusedLiif.of(feat, 257) is None
    assert gpu.FusedLiif.of(feat.float(), 64) is None


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    gpu._kernels_for.cache_clear()
    yield
    gpu._kernels_for.cache_clear()


@pytest.mark.usefixtures("a_gpu")
@torch.no_grad()
def test_the_kernels_are_tried_out(kernels: ModuleType) -> None:
    assert gpu._kernels_for(CPU) is kernels


@pytest.mark.usefixtures("a_gpu")
def test_where_triton_is_missing_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anysr.native.gpu_kernels", None)
    monkeypatch.delattr("anysr.native.gpu_kernels", raising=False)
    assert gpu._kernels_for(CPU) is None


@pytest.mark.usefixtures("a_gpu", "kernels")
def test_a_gpu_that_triton_cannot_compile_for_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise RuntimeError("Failed to find C compiler\nset CC")

    monkeypatch.setattr("anysr.native.gpu.lifted_rows", refuse)
    with pytest.warns(UserWarning, match="the GPU's kernels are off, torch's operators do the same: Failed to find C"):
        assert gpu._kernels_for(CPU) is None
    assert gpu._kernels_for(CPU) is None


@pytest.mark.usefixtures("a_gpu", "kernels")
def test_memory_that_has_run_out_does_not_turn_kernels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise RuntimeError("Triton Error [CUDA]: out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("anysr.native.gpu.lifted_rows", refuse)
        with pytest.raises(RuntimeError, match="out of memory"):
            gpu._kernels_for(CPU)
    assert gpu._kernels_for(CPU) is not None


@pytest.mark.filterwarnings("ignore:invalid value")  # NumPy's, of the interpreter
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@torch.no_grad()
def test_what_is_no_number_shows(bad: float, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature that has overflowed must not come out as a plausible picture."""
    decoder, feat, image = make_decoder(CONFIGS["liif"]).half(), torch.randn(1, 24, 4, 4).half(), torch.rand(1, 3, 4, 4)
    feat[0, 3, 0, 0] = bad
    use(monkeypatch, None)
    expected = decoder(feat, image.half(), GridQueries((6, 7)), 20).isfinite()
    use(monkeypatch, kernels)
    assert not expected.all()
    assert torch.equal(decoder(feat, image.half(), GridQueries((6, 7)), 20).isfinite(), expected)


@torch.no_grad()
def test_images_of_more_than_two_thousand_million_pixels(kernels: ModuleType) -> None:
    """The last pixels of a few rows of them, of which a product with the width would overflow 32 bits."""
    height, width = 2**31 // 46_341 + 5, 46_341
    axes = [torch.zeros(2, n, dtype=torch.int32) for n in (height, width)]
    grid = kernels.Grid(
        *axes, *(axis.float() for axis in axes), torch.tensor([height, width, height - 1, 0, width, 0, 0, 1])
    )
    row, col = torch.arange(height).float()[:, None], torch.arange(width).float()[:, None]
    rows = gpu.lifted_rows(kernels, grid, torch.zeros(4, 1), row, col, 40)
    torch.testing.assert_close(rows[:, 0], height - 1 + torch.arange(40).float())
