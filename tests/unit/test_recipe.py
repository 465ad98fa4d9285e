"""The parts of the training recipe: values and gradients against the same by hand."""

import re
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import anysr
from pipeline.config import DegradationConfig
from pipeline.data.degradations import degraded
from pipeline.data.draws import Draw
from pipeline.data.photo_map import open_photo_map
from pipeline.data.photos import photo_folder
from pipeline.data.samples import StepBatches
from pipeline.errors import FatalError, UserError
from pipeline.train.state import TrainState, check_unchanged
from pipeline.train.step import train_step
from pipeline.train.warm_start import warm_start
from tests.tiny import tiny_config

CPU = torch.device("cpu")
SANDWICH = ("sampling.widths=sandwich", "train.distillation=0")


def dataset(config, cache, *share):
    photos = open_photo_map(photo_folder(None, "train"), config.data.model_copy(update={"cache": cache}), 48)
    return StepBatches(photos, config, *share)


@pytest.fixture
def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def batch(cache):
    return replace(dataset(tiny_config(), cache)[0][0], draw=Draw(1, (2.1, 2.1), (3, 1, 0)), hr_size=(25, 25))


def gradients(config, *batches, prepare=lambda model: None):
    state = TrainState.fresh(config, CPU)
    torch.nn.init.normal_(state.model.decoder.layers[-1].weight, generator=torch.Generator().manual_seed(1), std=0.1)
    prepare(state.model)
    loss = train_step(state, state.model, batches, config.train)
    return {name: p.grad.clone() for name, p in state.model.named_parameters()}, float(loss)


def test_a_sandwich_sums_the_gradients_of_its_networks(batch):
    config = tiny_config(*SANDWICH)
    together, loss = gradients(config, batch)
    alone = [gradients(config, replace(batch, draw=Draw(1, (2.1, 2.1), (i,)))) for i in batch.draw.subnets]
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, sum(one[name] for one, _ in alone), atol=1e-6, rtol=1e-4)
    assert loss == pytest.approx(np.mean([value for _, value in alone]))


def test_parts_of_a_sandwich_give_the_same_gradients(batch):
    config = tiny_config(*SANDWICH, "train.distillation=0.4")
    whole, loss = gradients(config, batch)
    parts, loss_of_parts = gradients(tiny_config(*SANDWICH, "train.distillation=0.4", "train.accumulate=2"), batch)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=1e-4)
    assert loss_of_parts == pytest.approx(loss)


def test_distillation_mixes_the_detached_full_network_into_the_target(batch):
    """Against the loss written out: |s - ((1 - w) photo + w t)|, t the full network's answer as a number."""
    config = tiny_config(*SANDWICH, "train.distillation=0.3")
    found, _ = gradients(config, batch)
    state = TrainState.fresh(config, CPU)
    torch.nn.init.normal_(state.model.decoder.layers[-1].weight, generator=torch.Generator().manual_seed(1), std=0.1)
    arguments = (batch.lr / 255, 2.1, (25, 25))
    full, own, small = (state.model(*arguments, subnet=i, coord=batch.coord) for i in (3, 1, 0))
    photo, teacher = batch.target / 255, full.detach()
    loss = (full - photo).abs().mean()
    for narrow in (own, small):
        loss = loss + (narrow - (0.7 * photo + 0.3 * teacher)).abs().mean()
    (2 * loss).backward()
    for name, parameter in state.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-4)
    without, _ = gradients(tiny_config(*SANDWICH), batch)
    assert not torch.allclose(without["encoder.head.weight"], found["encoder.head.weight"], rtol=1e-3)


def test_a_teacher_that_agrees_with_its_pupils_leaves_their_gradients_alone(batch):
    """As at the start, where all answer with the interpolation: an L1 between them would be rounding's sign."""

    def at_the_start(model):
        torch.nn.init.zeros_(model.decoder.layers[-1].weight)

    taught, _ = gradients(tiny_config(*SANDWICH, "train.distillation=0.9"), batch, prepare=at_the_start)
    alone, _ = gradients(tiny_config(*SANDWICH), batch, prepare=at_the_start)
    for name, gradient in alone.items():
        torch.testing.assert_close(taught[name], gradient)


def test_a_step_of_all_groups_has_the_mean_of_their_gradients(cache):
    config = tiny_config("sampling={groups_per_step: all}", "train={distillation: 0, batch_size: 8, accumulate: 2}")
    batches = dataset(config, cache)[3]
    together, loss = gradients(config, *batches)
    alone = [gradients(config, batch) for batch in batches]
    assert [batch.draw.subnets for batch in batches] == [(0,), (1,), (2,), (3,)]
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, sum(one[name] for one, _ in alone) / 4, atol=1e-6, rtol=1e-4)
    assert loss == pytest.approx(np.mean([value for _, value in alone]))


def _worker(rank, config, steps, port, results):
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    state = TrainState.fresh(config, CPU)
    model = DistributedDataParallel(state.model)
    for batches in steps[rank]:
        train_step(state, model, batches, config.train)
    results.put((rank, {name: tensor.numpy() for name, tensor in state.model.state_dict().items()}))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("groups", ["one", "all"])
def test_two_processes_with_several_passes_per_step_agree_with_one(cache, free_port, groups):
    # With other seeds a gradient may be zero but for rounding, of which Adam makes a step.
    given = ("train.distillation=0.5", "train.accumulate=2", "train.seed=1", "train.batch_size=16")
    config = tiny_config(*SANDWICH, *given, f"sampling.groups_per_step={groups}")
    steps = range(4)
    shares = [[dataset(config, cache, rank, 2)[step] for step in steps] for rank in range(2)]
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    processes = [
        context.Process(target=_worker, args=(rank, config, shares, free_port, results), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    by_rank = dict(results.get() for _ in processes)
    for process in processes:
        process.join(30)
    alone = TrainState.fresh(config, CPU)
    for step in steps:
        train_step(alone, alone.model, dataset(config, cache)[step], config.train)
    for name, tensor in alone.model.state_dict().items():
        np.testing.assert_array_equal(by_rank[0][name], by_rank[1][name])
        np.testing.assert_allclose(by_rank[0][name], tensor, atol=1e-4)


@pytest.mark.parametrize("encoder", ["edsr-baseline", "rdn", "rcan"])
def test_a_plain_network_starts_an_any_resource_one(tmp_path, encoder):
    sizes = {
        "edsr-baseline": {"num_blocks": 2, "channels": 8},
        "rdn": {"channels": 8, "growth": 8, "num_blocks": 2, "num_convs": 8},
        "rcan": {"channels": 8, "num_groups": 2, "num_blocks": 2, "reduction": 4},
    }[encoder]
    plain = anysr.build(f"{encoder}-liif", encoder=sizes, decoder={"hidden": 16})
    anysr.save(plain, tmp_path / "plain.safetensors")
    woven = anysr.build(f"{encoder}-liif-anysr", encoder=sizes, decoder={"hidden": 16}, interweave={"interval": 4})
    warm_start(woven, tmp_path / "plain.safetensors")
    lr = torch.rand(1, 3, 7, 9)
    with torch.no_grad():
        expected, found = plain(lr, 2.3), woven(lr, 2.3, subnet="full")
    torch.testing.assert_close(found, expected, atol=0.02 * float(expected.std()), rtol=0)
    own = {name for name, _ in woven.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert own
    assert all(".gate." in name for name in own)


def test_a_file_that_does_not_fit_is_named(tmp_path):
    anysr.save(anysr.build("edsr-baseline-liif", encoder={"num_blocks": 1, "channels": 8}), tmp_path / "a.safetensors")
    model = anysr.build(tiny_config().model)
    with pytest.raises(FatalError, match=r"a\.safetensors does not fit.*blocks\.1.*missing"):
        warm_start(model, tmp_path / "a.safetensors")
    with pytest.raises(FatalError, match="no model file at"):
        warm_start(model, tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("model.decoder.skip=none", "decoder.skip: bilinear -> none"),
        ("model.encoder.residual_scale=0.1", "encoder.residual_scale: 1.0 -> 0.1"),
        ("model.interweave.parity_sign=true", "interweave.parity_sign: False -> True"),
    ],
)
def test_a_network_that_makes_something_else_of_the_weights_is_refused(tmp_path, override, fault):
    anysr.save(anysr.build(tiny_config().model), tmp_path / "a.safetensors")
    with pytest.raises(FatalError, match=rf"a\.safetensors does not fit the network \({fault}\)"):
        warm_start(anysr.build(tiny_config(override).model), tmp_path / "a.safetensors")


def test_what_a_network_may_do_otherwise_with_the_weights_is_told(tmp_path):
    anysr.save(anysr.build(tiny_config().model), tmp_path / "a.safetensors")
    changed = tiny_config("model.decoder.fade_in=0.01", "model.encoder.block_channels=8").model
    assert warm_start(anysr.build(changed), tmp_path / "a.safetensors") == ["decoder.fade_in: 0.0 -> 0.01"]
    plain = tiny_config("model.interweave=null").model
    anysr.save(anysr.build(plain), tmp_path / "plain.safetensors")
    assert warm_start(anysr.build(tiny_config().model), tmp_path / "plain.safetensors") == []


def test_a_run_may_go_on_where_its_first_weights_lie_elsewhere():
    before = tiny_config("train.init_from=/here/plain.safetensors").to_dict()
    check_unchanged(before, tiny_config("train.init_from=/there/plain.safetensors"))
    with pytest.raises(FatalError, match=r"train\.init_from: plain\.safetensors -> other\.safetensors"):
        check_unchanged(before, tiny_config("train.init_from=/there/other.safetensors"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("sampling.full_width_probability=0.5",), "full_width_probability 0.5 has no effect on widths 'sandwich'"),
        (("sampling.random_width_probability=0.5",), "random_width_probability 0.5 has no effect"),
        (("sampling.widths=one",), "set sampling.widths to pair or sandwich"),
        (
            ("sampling.widths=one", "train.distillation=0", "sampling.full_width_probability=[0.6, 0]"),
            "2 values for 4 scale groups",
        ),
        (("data.degradation.jpeg_quality=[90, 20]",), "lowest, highest"),
        (("model.subnets=[{scales: [1, 4]}]",), "sampling.widths 'sandwich' has no effect on a network of one scale"),
        (("train.cooldown=0.1",), "cooldown 0.1 has no effect on the schedule 'cosine'; leave it out, or set schedule"),
        (("train.schedule=trapezoid", "train.milestones=[0.5]"), "milestones (0.5,) has no effect"),
        (("train.schedule=multistep", "train.final_fraction=0.1"), "set schedule to cosine or trapezoid"),
        (("train.gamma=0.1",), "gamma 0.1 has no effect"),
        (("data.degradation.blur_sigma=[1, 2]",), "blur_sigma [1.0, 2.0] has no effect where blur is 0; set blur"),
        (("data.degradation={jpeg: 1, noise_sigma: [1, 2]}",), "noise_sigma [1.0, 2.0] has no effect"),
        (("data.degradation.blurr=1",), "did you mean 'data.degradation.blur'"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        tiny_config(*overrides)


def test_degradations_touch_the_lr_image_alone_and_depend_on_seed_and_step(cache):
    (clean,) = dataset(tiny_config(), cache)[3]
    faulty = tiny_config("data.degradation={blur: 1, noise: 1, jpeg: 1}")
    seen = [dataset(faulty, cache)[3][0] for _ in range(2)]
    assert torch.equal(seen[0].lr, seen[1].lr)
    assert not torch.equal(seen[0].lr, clean.lr)
    assert torch.equal(seen[0].target, clean.target)
    assert torch.equal(seen[0].coord, clean.coord)


def test_each_degradation_does_what_it_says():
    rng = np.random.default_rng(0)
    edge = np.zeros((32, 32, 3), np.uint8)
    edge[:, 16:] = (200, 100, 50)
    blurred = degraded(edge, DegradationConfig(blur=1, blur_sigma=(1.5, 1.5)), rng)
    assert 0.3 < blurred[16, 15, 0] / 200 < 0.45  # the Gaussian's share beyond half a pixel: 0.37
    noisy = degraded(np.full((64, 64, 3), 128, np.uint8), DegradationConfig(noise=1, noise_sigma=(8, 8)), rng)
    assert (noisy.astype(float) - 128).std() == pytest.approx(8, rel=0.05)
    assert abs(np.corrcoef(noisy[..., 0].ravel(), noisy[..., 1].ravel())[0, 1]) < 0.1
    flat = np.full((32, 32, 3), (250, 20, 40), np.uint8)
    packed = degraded(flat, DegradationConfig(jpeg=1, jpeg_quality=(60, 60)), rng)
    assert np.abs(packed.astype(int) - flat).max() <= 4  # not with red and blue exchanged
    some = [degraded(edge, DegradationConfig(blur=0.5), rng) for _ in range(200)]
    assert np.mean([not np.array_equal(one, edge) for one in some]) == pytest.approx(0.5, abs=0.1)
