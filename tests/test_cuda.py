"""On a GPU: the same answers, gradients and runs as on the CPU, in a memory that tiles bound."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import anysr
from anysr.out_of_memory import is_out_of_memory
from anysr.zoo import MODELS
from pipeline.data.photo_map import open_photo_map
from pipeline.data.photos import photo_folder
from pipeline.data.samples import StepBatches
from pipeline.train.graphs import graphed
from pipeline.train.state import TrainState
from pipeline.train.step import train_step
from tests.conftest import ROOT
from tests.parity.test_checkpoints import KINDS, SHARED, check_answers
from tests.tiny import tiny_config
from tests.unit.test_zoo import factor, tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
DECODERS = ("liif", "srno", "metasr", "arbsr")


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    """cuDNN rounds the factors of a convolution to TF32 unless told not to."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("name", MODELS)
def test_every_network_answers_as_on_the_cpu(name: str) -> None:
    model, lr = tiny(name), torch.rand(2, 3, 23, 17)
    on_gpu, half, scale = tiny(name).to(CUDA), tiny(name).to(CUDA).bfloat16(), factor(model)
    for subnet in range(len(model.subnets)):
        with torch.no_grad():
            expected = model(lr, scale, subnet=subnet)
            for tile in (None, 9):
                assert (on_gpu(lr.to(CUDA), scale, subnet=subnet, tile=tile).cpu() - expected).abs().max() < 1e-4
            assert (half(lr.to(CUDA), scale, subnet=subnet).cpu() - expected).abs().max() < 0.05


@pytest.mark.parametrize("decoder", ["liif", "srno"])
@pytest.mark.parametrize("hidden", [48, 128, 192, 256])
@torch.no_grad()
def test_kernels_answer_as_torch_does(decoder: str, hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = anysr.build(f"edsr-baseline-{decoder}", encoder={"num_blocks": 1}, decoder={"hidden": hidden}).eval()
    lr, answers = torch.rand(1, 3, 70, 43), {}
    monkeypatch.setattr("anysr.decoders.grid.STRIP_BYTES", 2**16)  # several strips
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        on_gpu = copy.deepcopy(model).to(CUDA, dtype)
        for kernels in ("off", "on"):
            monkeypatch.setenv("ANYSR_KERNELS", kernels)
            answers[dtype, kernels] = on_gpu(lr.to(CUDA), 3.3).cpu().float()
    for (dtype, _), answer in answers.items():
        atol = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}[dtype]
        torch.testing.assert_close(answer, answers[torch.float32, "off"], rtol=0, atol=atol)


@pytest.mark.parametrize("encoder", ["edsr-baseline", "rdn", "rcan"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_gradients_are_the_cpus(encoder: str, decoder: str) -> None:
    def gradients(device: torch.device, narrow: int) -> list[Tensor]:
        model = tiny(f"{encoder}-{decoder}-anysr").to(device).train()
        generator = torch.Generator().manual_seed(0)
        lr, coord = torch.rand(2, 3, 13, 13, generator=generator), torch.rand(2, 40, 2, generator=generator) * 2 - 1
        sr = model(lr.to(device), 2.3, (30, 30), subnet=narrow, coord=coord.to(device))
        (sr.cpu() - 0.3).square().mean().backward()
        return [torch.zeros_like(p, device=CPU) if p.grad is None else p.grad.cpu() for p in model.parameters()]

    for narrow in (0, 3):
        for ours, theirs in zip(gradients(CUDA, narrow), gradients(CPU, narrow), strict=True):
            assert (ours - theirs).abs().max() <= 1e-4 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize(
    "name", ["edsr-baseline-liif-anysr", "rdn-srno-anysr", "rcan-metasr-anysr", "rcan-arbsr-anysr"]
)
def test_replayed_networks_have_the_same_gradients(name: str) -> None:
    """Each width twice, with weights changed in place and gradients left to add up in between."""
    plain = tiny(name).to(CUDA).train()
    replayed = graphed(plain)
    assert (replayed is plain) == ("arbsr" in name)
    rng = torch.Generator(CUDA).manual_seed(0)

    def gradients(model: nn.Module, lr: Tensor, coord: Tensor, widths: list[int], scale: float) -> list[Tensor]:
        plain.zero_grad(set_to_none=True)
        for width in widths:
            sr = model(lr, scale, (30, 30), subnet=width, coord=coord)
            (sr - 0.3).square().mean().backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in plain.parameters()]

    for widths, scale in (([0], 1.3), ([3, 1, 3], 2.6), ([1], 1.9), ([3, 0, 3, 0], 3.4)):
        lr, coord = (torch.rand(shape, device=CUDA, generator=rng) for shape in ((2, 3, 13, 13), (2, 40, 2)))
        both = [gradients(model, lr, 2 * coord - 1, widths, scale) for model in (plain, replayed)]
        largest = max(float(g.abs().max()) for g in both[0])
        for ours, theirs in zip(*both, strict=True):
            assert (ours - theirs).abs().max() <= 1e-5 * largest
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter += 1e-2 * torch.randn(parameter.shape, device=CUDA, generator=rng)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no released files at {SHARED}")
@pytest.mark.parametrize("name", KINDS)
def test_released_answers(name: str) -> None:
    check_answers(anysr.load(SHARED / f"{name}.pth").to(CUDA), name)


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> StepBatches:
    config = tiny_config(f"data.cache={tmp_path_factory.mktemp('cache')}")
    return StepBatches(open_photo_map(photo_folder(None, "train"), config.data, config.hr_crop_px), config)


def test_a_run_moves_between_gpu_and_cpu(batches: StepBatches, tmp_path: Path) -> None:
    config = tiny_config()
    losses: dict[str, list[float]] = {}
    for here, there in ((CPU, CPU), (CPU, CUDA), (CUDA, CPU)):
        folder = tmp_path / f"{here}-{there}"
        folder.mkdir()
        state = TrainState.fresh(config, here)
        for step in range(4):
            train_step(state, state.model, batches[step], config.train)
        state.save(folder, config, [])
        moved = TrainState.fresh(config, there)
        moved.restore(folder, config)
        assert {p.device.type for p in moved.model.parameters()} == {there.type}
        steps = [train_step(moved, moved.model, batches[step], config.train) for step in range(4, 8)]
        losses[f"{here}-{there}"] = [float(loss) for loss in steps]
    for moved_losses in losses.values():
        assert moved_losses == pytest.approx(losses["cpu-cpu"], rel=2e-3)


def test_bfloat16_trains_as_float32_does(batches: StepBatches) -> None:
    losses = []
    for precision in ("bfloat16", "float32"):
        config = tiny_config(f"train.precision={precision}", "train.ema_decay=0.9")
        state = TrainState.fresh(config, CUDA)
        steps = [train_step(state, state.model, batches[step], config.train) for step in range(6)]
        state.watch.check()
        losses.append([float(loss) for loss in steps])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_replayed_steps_are_the_same_steps(batches: StepBatches, precision: str) -> None:
    losses = []
    for wrap in (lambda model: model, graphed):
        skip = "model.decoder.skip=bilinear", "model.decoder.fade_in=0.7"
        config = tiny_config(f"train.precision={precision}", "train.accumulate=2", *skip)
        state = TrainState.fresh(config, CUDA)
        model = wrap(state.model)
        losses.append([float(train_step(state, model, batches[step], config.train)) for step in range(8)])
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


_NEW_PROCESS = """
import sys, torch
from pipeline.config_file import load_config
from pipeline.data.photo_map import open_photo_map
from pipeline.data.photos import photo_folder
from pipeline.data.samples import StepBatches
from pipeline.train.graphs import graphed
from pipeline.train.state import TrainState
from pipeline.train.step import train_step

device, config = torch.device(sys.argv[1]), load_config(sys.argv[2], ["data.loader_processes=0", *sys.argv[3:]])
batches = StepBatches(open_photo_map(photo_folder(None, "train"), config.data, config.hr_crop_px), config)
for wrap in (graphed, lambda model: model):
    state = TrainState.fresh(config, device)
    model = wrap(state.model)
    print(*(float(train_step(state, model, batches[step], config.train)) for step in range(6)))
"""


@pytest.mark.parametrize("decoder", ["{kind: liif, hidden: 128, num_layers: 4}", "{kind: srno, hidden: 128}",
                                      "{kind: metasr, hidden: 128}"])  # fmt: skip
def test_large_batches_are_replayed_right_from_a_process_s_first_step(decoder: str) -> None:
    """What a process takes while it records for the first time is not what it takes later."""
    given = "cuda", ROOT / "jobs/configs/anysr-base.yaml", f"model.decoder={decoder}"
    run = subprocess.run([sys.executable, "-c", _NEW_PROCESS, *given], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    replayed, plain = ([float(loss) for loss in line.split()] for line in run.stdout.splitlines())
    assert replayed == pytest.approx(plain, rel=2e-3)


def test_a_replayed_network_refuses_to_go_back_twice() -> None:
    model = graphed(tiny("edsr-baseline-liif-anysr").to(CUDA).train())
    lr, coord = torch.rand(2, 3, 13, 13, device=CUDA), torch.rand(2, 40, 2, device=CUDA) * 2 - 1
    first, second = (model(lr, 2.0, (26, 26), subnet=1, coord=coord).sum() for _ in range(2))
    with pytest.raises(RuntimeError, match="went forward again before this backward pass"):
        first.backward()
    second.backward()


@pytest.mark.parametrize("decoder", ["liif", "srno", "metasr"])
def test_replayed_gradients_under_autocast(decoder: str) -> None:
    plain = tiny(f"edsr-baseline-{decoder}-anysr").to(CUDA).train()
    lr, coord = torch.rand(4, 3, 13, 13, device=CUDA), torch.rand(4, 400, 2, device=CUDA) * 2 - 1
    gradients = []
    for model in (plain, graphed(plain)):
        plain.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            sr = model(lr, 2.3, (30, 30), subnet=3, coord=coord)
        (sr.float() - 0.3).square().mean().backward()
        gradients.append([p.grad.clone() for p in plain.parameters() if p.grad is not None])
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).norm() <= 2e-3 * theirs.norm() + 1e-9


@pytest.mark.parametrize("decoder", DECODERS)
def test_memory_grows_with_the_image_and_not_with_the_width_of_all_its_pixels(decoder: str) -> None:
    model = anysr.build(f"edsr-baseline-{decoder}", encoder={"num_blocks": 2}).eval().to(CUDA)
    lr = torch.rand(1, 3, 1024, 1024, device=CUDA)
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        model(lr, 4)
    peak_gib = torch.cuda.max_memory_allocated() / 2**30
    print(f"{decoder}: {peak_gib:.2f} GiB")
    assert peak_gib < 6  # 16.8 million pixels of 256 hidden units would be 16 GiB


def test_running_out_of_memory_is_recognised() -> None:
    blocks = [torch.empty(2**28, device=CUDA)]
    with pytest.raises(RuntimeError) as error:
        while True:
            blocks.append(torch.empty(2**31, device=CUDA))
    assert is_out_of_memory(error.value)
