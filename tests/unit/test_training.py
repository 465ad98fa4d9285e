import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import anysr
from pipeline.config import TrainConfig
from pipeline.data.photo_map import open_photo_map
from pipeline.data.photos import photo_folder
from pipeline.data.samples import StepBatches
from pipeline.errors import FatalError, UserError
from pipeline.storage.s3 import _waits
from pipeline.tracking.metric_log import MetricLog
from pipeline.train.checkpoints import Checkpoints, damage
from pipeline.train.finite import FiniteWatch, NonFiniteLossError, OneWorkerError
from pipeline.train.state import TrainState, check_unchanged, read_checkpoint
from pipeline.train.step import learning_rate_at, train_step
from tests.tiny import tiny_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    config = tiny_config(f"data.cache={tmp_path_factory.mktemp('cache')}")
    return StepBatches(open_photo_map(photo_folder(None, "train"), config.data, config.hr_crop_px), config)


def run(config, batches, steps, state=None):
    state = state or TrainState.fresh(config, CPU)
    losses = [float(train_step(state, state.model, batches[s], config.train)) for s in steps]
    return state, losses


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_save_and_restore_give_the_identical_next_steps(batches, tmp_path):
    config = tiny_config()
    straight, losses = run(config, batches, range(8))
    halfway, _ = run(config, batches, range(4))
    halfway.save(tmp_path, config, [["loss", 1.0, 3, 0]])
    resumed = TrainState.fresh(tiny_config("train.seed=9", "run.allow_changes=true"), CPU)
    assert resumed.restore(tmp_path, config) == [["loss", 1.0, 3, 0]]
    _, rest = run(config, batches, range(4, 8), resumed)
    assert rest == losses[4:]
    assert equal(resumed.model, straight.model)
    assert equal(resumed.ema, straight.ema)
    assert equal(anysr.load(tmp_path / "model.safetensors"), halfway.best_model)


def test_a_checkpoint_with_states_of_pythons_and_numpys_generators_is_gone_on_with(batches, tmp_path):
    """As earlier versions wrote them."""
    config = tiny_config()
    state, _ = run(config, batches, range(2))
    state.save(tmp_path, config, [])
    values = read_checkpoint(tmp_path)
    name, keys, *rest = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    values["rng"]["numpy"] = [name, torch.from_numpy(keys.astype(np.int64)), *rest]
    values["rng"]["python"] = [version, list(internal), gauss]
    torch.save(values, tmp_path / "state.pt")
    resumed = TrainState.fresh(config, CPU)
    resumed.restore(tmp_path, config)
    assert resumed.step == 2
    assert equal(resumed.model, state.model)


def test_workers_of_one_seed_wait_for_s3_differently():
    waits = []
    for _ in range(2):
        TrainState.fresh(tiny_config(), CPU)
        waits.append(list(itertools.islice(_waits(), 4)))
    assert waits[0] != waits[1]


def test_accumulating_parts_gives_the_same_gradient(batches):
    """The gradient, not the update: Adam blows up the rounding of one that is nearly zero to whole steps."""
    gradients = []
    for accumulate in (1, 2, 4):
        state, _ = run(tiny_config(), batches, range(5))
        run(tiny_config(f"train.accumulate={accumulate}"), batches, [5], state)
        gradients.append([p.grad for p in state.model.parameters()])
    for whole, *parts in zip(*gradients, strict=True):
        for part in parts:
            torch.testing.assert_close(part, whole, atol=1e-5 * float(whole.abs().max()), rtol=0)


def test_the_loss_falls(batches):
    config = tiny_config("train.learning_rate=1e-2", "model.decoder.skip=none")
    _, losses = run(config, batches, [0] * 30)
    assert losses[-1] < 0.5 * losses[0]


def test_bfloat16_follows_float32(batches):
    _, exact = run(tiny_config(), batches, range(4))
    _, rounded = run(tiny_config("train.precision=bfloat16"), batches, range(4))
    assert rounded == pytest.approx(exact, rel=0.02)


class Worker:
    """One of two workers, as far as the first steps of a run need it."""

    rank, world_size, device = 0, 1, CPU

    def __init__(self, place, other_is_fast=True):
        self.checkpoints, self.other, self.said = Checkpoints(place, keep=1), other_is_fast, []

    def wrap(self, model):
        return model

    def gather(self, values):
        return [*values, self.other] if values in ([True], [False]) else values

    def latest_checkpoint(self):
        return self.checkpoints.latest(self.show)

    def save_checkpoint(self, write, step, scores):
        self.checkpoints.save(write, step)

    def show(self, event):
        self.said.append(event)

    def should_stop(self):
        return False


def trained(place, *overrides, **worker):
    """Three steps, validated and saved at the last; what was said, and in what the steps were computed."""
    from pipeline.train.loop import train

    few = ("train.checkpoint_every=3", "validation.every=3", "validation.scales=[2]", "validation.crop_px=32")
    context = Worker(place, **worker)
    train(tiny_config("train.steps=3", *few, *overrides), context, MetricLog(None), None)
    (folder,) = place.iterdir()
    return context.said, read_checkpoint(folder)["precision"]


def test_precision_auto_is_decided_once_for_all_workers_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("anysr.fast_linear._cpu_has_fast_bf16", lambda: True)
    said, precision = trained(tmp_path / "one", "train.precision=auto", other_is_fast=False)
    assert ("train.precision=auto: float32, to the end of this run" in said, precision) == (True, "float32")
    _, precision = trained(tmp_path / "two", "train.precision=auto")
    assert precision == "bfloat16"
    assert equal_weights(tmp_path / "two", tmp_path / "three", "train.precision=bfloat16")
    monkeypatch.setattr("anysr.fast_linear._cpu_has_fast_bf16", lambda: False)  # the run moves on
    said, precision = trained(tmp_path / "two", "train.precision=auto", "train.steps=5", "run.allow_changes=true")
    assert precision == "bfloat16"
    assert "changed since the checkpoint, as run.allow_changes permits: train.steps: 3 -> 5" in said


def equal_weights(folder, other, *overrides):
    trained(other, *overrides)
    models = [anysr.load(next(one.iterdir()) / "model.safetensors") for one in (folder, other)]
    return equal(*models)


def test_the_moving_average_of_a_short_run_is_of_its_own_weights(batches):
    """By hand: a = d a + (1 - d) w with d = min(0.999, (1 + n) / (10 + n)), n the updates so far."""
    config = tiny_config("train.ema_decay=0.999")
    state = TrainState.fresh(config, CPU)
    average = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    for step in range(4):
        run(config, batches, [step], state)
        decay = (1 + step) / (10 + step)
        average = {
            name: decay * average[name] + (1 - decay) * tensor for name, tensor in state.model.state_dict().items()
        }
    for name, tensor in state.best_model.state_dict().items():
        torch.testing.assert_close(tensor, average[name])
    state.ema.n_averaged.fill_(20_000)  # as of a run that is well on its way
    before = {name: tensor.clone() for name, tensor in state.best_model.state_dict().items()}
    run(config, batches, [4], state)
    for name, tensor in state.best_model.state_dict().items():
        torch.testing.assert_close(tensor, 0.999 * before[name] + 0.001 * state.model.state_dict()[name])


def test_a_loss_that_is_no_number_names_step_scale_and_photos(batches):
    config = tiny_config()
    state = TrainState.fresh(config, CPU)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    with torch.no_grad():
        state.model.decoder.layers[-1].bias[0] = math.nan
    before["decoder.layers.2.bias"][0] = math.nan
    with pytest.raises(NonFiniteLossError, match=r"nan.*step 0 \(group \d, scale x\d.*photos .*webp"):
        train_step(state, state.model, batches[0], config.train)
    for name, tensor in state.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], equal_nan=True, atol=0, rtol=0)


def test_of_several_groups_only_the_one_whose_loss_is_no_number_is_named(batches):
    config = tiny_config("sampling.groups_per_step=all", "train.batch_size=8", "train.accumulate=2")
    state = TrainState.fresh(config, CPU)
    parts = [replace(part, names=(f"{part.draw.group}.webp",)) for part in StepBatches(batches._photos, config)[0]]

    def one_group_diverges(lr, scale, size, subnet, coord):
        answer = state.model(lr, scale, size, subnet=subnet, coord=coord)
        return answer * math.nan if scale == parts[1].draw.scale else answer

    named = rf"\(group 1, scale {parts[1].draw.scale_text(3)}, photos 1\.webp\); the last"
    with pytest.raises(NonFiniteLossError, match=f"the loss is nan .* at step 0 {named}"):
        train_step(state, one_group_diverges, parts, config.train)


def test_a_device_that_is_not_waited_for_tells_its_first_bad_step_later(batches, monkeypatch):
    watch = FiniteWatch()
    monkeypatch.setattr(torch.Tensor, "device", torch.device("cuda"))  # as far as the watch can see
    number, nan = torch.tensor(0.5), torch.tensor(math.nan)
    for step, (loss, norm) in enumerate([(number, number), (nan, number), (nan, nan)]):
        watch.add([loss], norm, batches[step], step)
    monkeypatch.undo()
    with pytest.raises(OneWorkerError, match=r"loss is nan and its gradient's norm 0\.5 at step 1 \(group"):
        watch.check()
    watch.check()
    watch.add([number], number, batches[3], 3)


def test_learning_rates_by_hand():
    config = TrainConfig(steps=100, learning_rate=1.0, warmup_steps=10, final_fraction=0.1)
    assert [learning_rate_at(s, config) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert learning_rate_at(10, config) == 1.0
    assert learning_rate_at(55, config) == pytest.approx(0.55)
    assert learning_rate_at(100, config) == pytest.approx(0.1)
    steps = TrainConfig(steps=100, learning_rate=1.0, schedule="multistep", milestones=(0.4, 0.8), gamma=0.5)
    assert [learning_rate_at(s, steps) for s in (39, 40, 80)] == [1.0, 0.5, 0.25]
    trapezoid = TrainConfig(steps=100, learning_rate=1.0, schedule="trapezoid", cooldown=0.2, final_fraction=0.1)
    assert [learning_rate_at(s, trapezoid) for s in (0, 80, 90, 100)] == pytest.approx([1.0, 1.0, 0.55, 0.1])


def test_another_configuration_is_not_resumed_in_silence():
    before = tiny_config("run.name=r").to_dict()
    check_unchanged(
        before, tiny_config("run.name=r", "run.storage=/elsewhere", "ray.num_workers=2", "train.cuda_graphs=false")
    )
    with pytest.raises(FatalError, match=r"train\.learning_rate: 0.001 -> 0.5"):
        check_unchanged(before, tiny_config("run.name=r", "train.learning_rate=0.5"))
    allowed = check_unchanged(before, tiny_config("run.allow_changes=true", "train.learning_rate=0.5"))
    assert allowed == ["train.learning_rate: 0.001 -> 0.5"]
    assert check_unchanged(before, tiny_config("run.name=r", "data.train=/elsewhere", "data.validation=/there")) == []
    del before["validation"]["protocol"]  # as before there was this key
    check_unchanged(before, tiny_config("run.name=r"))
    before["train"]["gone_since"] = 3
    with pytest.raises(FatalError, match=r"train\.gone_since: 3 -> None"):
        check_unchanged(before, tiny_config("run.name=r"))


def test_a_resumed_optimizer_has_the_new_options(tmp_path):
    TrainState.fresh(tiny_config(), CPU).save(tmp_path, tiny_config(), [])
    config = tiny_config("train.weight_decay=0.1", "run.allow_changes=true")
    state = TrainState.fresh(config, CPU)
    state.restore(tmp_path, config)
    assert [group["weight_decay"] for group in state.optimizer.param_groups] == [0.1]
    assert all(group["params"] for group in state.optimizer.param_groups)


def test_other_photos_are_not_resumed_in_silence(tmp_path):
    before = TrainState.fresh(tiny_config(), CPU)
    before.photos = ("a", "b")
    before.save(tmp_path, tiny_config(), [])
    for photos, refused in ((("a", "b"), None), (("c", "b"), "to train on"), (("a", "c"), "to validate on")):
        state = TrainState.fresh(tiny_config(), CPU)
        state.photos = photos
        if refused is None:
            state.restore(tmp_path, tiny_config())
            continue
        with pytest.raises(FatalError, match=refused):
            state.restore(tmp_path, tiny_config())
        said: list[str] = []
        state.restore(tmp_path, tiny_config("run.allow_changes=true"), said.append)
        assert said == [f"changed since the checkpoint, as run.allow_changes permits: the photos {refused} are others"]


def test_a_damaged_checkpoint_is_named(batches, tmp_path):
    config = tiny_config()
    state = TrainState.fresh(config, CPU)
    state.save(tmp_path, config, [])
    path = tmp_path / "state.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FatalError, match=r"state\.pt is damaged"):
        state.restore(tmp_path, config)


def test_a_failed_save_keeps_what_was_there(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(lambda folder: (folder / "a").write_text("old"), step=1)

    def fails(folder):
        (folder / "a").write_text("new")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        checkpoints.save(fails, step=1)
    (target,) = tmp_path.iterdir()
    assert (target / "a").read_text() == "old"
    assert damage(target) is None


def test_a_new_checkpoint_outlives_damaged_ones_of_later_steps(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (300, 400):
        Checkpoints(tmp_path, keep=3).save(lambda folder: (folder / "a").write_text("old"), step)
    (tmp_path / "step_000000400/a").write_text("cut")
    (tmp_path / "step_zzz").mkdir()  # somebody else's
    checkpoints.save(lambda folder: (folder / "a").write_text("new"), step=330)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000000330", "step_zzz"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(lambda folder, step=step: (folder / "a").write_text(f"step {step}"), step)
    (tmp_path / "step_000000003/a").write_text("step 4")  # a flipped bit or two
    (tmp_path / "step_000000002/a").unlink()
    said: list[str] = []
    with checkpoints.latest(said.append) as folder:
        assert folder == tmp_path / "step_000000001"
    assert [line.partition(" and not used")[0] for line in said] == [
        f"checkpoint {tmp_path}/step_000000003 is damaged (a is not what was saved: its checksum is another)",
        f"checkpoint {tmp_path}/step_000000002 is damaged (a is missing)",
    ]
    (tmp_path / "step_000000001/checksums.json").unlink()
    (tmp_path / "step_zzz").mkdir()
    with pytest.raises(FatalError, match="every checkpoint of the run is damaged"), checkpoints.latest(said.append):
        pass
