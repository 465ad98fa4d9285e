import numpy as np
import pytest
import torch
from PIL import Image

from anysr.config import PAPER_SUBNETS
from anysr.geometry import pixel_centres
from pipeline.config_file import load_config
from pipeline.data.draws import Draw, ScaleGroupSampler, crop_macs
from pipeline.data.photo_map import open_photo_map
from pipeline.data.photos import photo_folder
from pipeline.data.samples import StepBatches, _distinct_places, batches_from
from pipeline.errors import UserError
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    config = tiny_config(f"data.cache={tmp_path_factory.mktemp('cache')}")
    return open_photo_map(photo_folder(None, "train"), config.data, config.hr_crop_px)


def same(step, other):
    for a, b in zip(step, other, strict=True):
        same_batch(a, b)


def same_batch(a, b):
    assert a.draw == b.draw
    assert a.names == b.names
    for name in ("lr", "coord", "target"):
        assert torch.equal(getattr(a, name), getattr(b, name))


def test_a_batch_depends_on_seed_and_step_alone(photos):
    forward, backward = StepBatches(photos, tiny_config()), StepBatches(photos, tiny_config())
    expected = [forward[step] for step in range(4)]
    for step in (3, 1, 0, 2):
        same(backward[step], expected[step])
    (other,) = StepBatches(photos, tiny_config("train.seed=1"))[0]
    assert not torch.equal(other.target, expected[0][0].target)


def test_loader_processes_change_nothing(photos):
    dataset = StepBatches(photos, tiny_config())
    for step, batches in enumerate(batches_from(dataset, range(5), loader_processes=2)):
        same(batches, dataset[step])


@pytest.mark.parametrize("groups", ["one", "all"])
def test_workers_share_the_batch(photos, groups):
    config = tiny_config("ray.num_workers=2", "train.batch_size=8", f"sampling.groups_per_step={groups}")
    whole = StepBatches(photos, config)[5]
    halves = [StepBatches(photos, config, rank, 2)[5] for rank in range(2)]
    assert [len(part.lr) for part in whole] == ([8] if groups == "one" else [2, 2, 2, 2])
    for part, *mine in zip(whole, *halves, strict=True):
        assert torch.cat([half.lr for half in mine]).equal(part.lr)
        assert torch.cat([half.target for half in mine]).equal(part.target)
        assert mine[0].draw == mine[1].draw == part.draw


def test_a_step_of_all_groups_has_each_once_at_a_scale_of_its_own(photos):
    config = tiny_config("train.batch_size=8", "sampling.groups_per_step=all", "sampling.random_width_probability=0")
    dataset = StepBatches(photos, config)
    for step in range(6):
        batches = dataset[step]
        assert [batch.draw.group for batch in batches] == [0, 1, 2, 3]
        for batch in batches:
            low, high = PAPER_SUBNETS[batch.draw.group].scales
            height, width = batch.draw.scale
            assert low <= height == width <= high
            assert batch.hr_size == (round(batch.lr.shape[-1] * height),) * 2
    photos_seen = [name for step in range(2) for batch in dataset[step] for name in batch.names]
    assert sorted(photos_seen) == sorted(photos.names * (16 // len(photos.names)))


UP_TO_3 = "model.subnets=[{scales: [3, 3.0001]}]"  # as many queries as any crop has pixels
ONE = ("train.distillation=0", "sampling.widths=one")


@pytest.mark.parametrize("scale", [(1, 1), (1.5, 1.5), (2, 2), (3, 3), (1.5, 2.5), (3, 1)], ids=str)
def test_lr_and_targets_show_the_same_crop(photos, scale, monkeypatch):
    """With every pixel of the HR crop queried: the LR crop is what Pillow makes of it, flipped as it is."""
    height, width = (int(12 * factor) for factor in scale)
    dataset = StepBatches(photos, tiny_config(f"data.queries_per_crop={height * width}", UP_TO_3, *ONE))
    monkeypatch.setattr(dataset.sampler, "draws", lambda step: (Draw(0, scale, (0,)),))
    seen = set()
    for (batch,) in (dataset[step] for step in range(8)):
        assert batch.hr_size == (height, width)
        for lr, coord, target in zip(batch.lr, batch.coord, batch.target, strict=True):
            rows, cols = (
                ((coord[:, axis] + 1) * side / 2 - 0.5).round().long() for axis, side in enumerate((height, width))
            )
            hr = np.zeros((height, width, 3), np.uint8)
            hr[rows, cols] = target
            # Flipped back in each of the eight ways, shrunk and flipped again: axes are not quite alike to Pillow.
            flips = [(turns, mirror) for turns in range(4) for mirror in (False, True)]
            made = [
                flipped(np.asarray(shrunk(flipped(hr, -turns if not mirror else turns, mirror))), turns, mirror)
                for turns, mirror in flips
            ]
            matches = {
                flip for flip, image in zip(flips, made, strict=True) if np.array_equal(image, lr.permute(1, 2, 0))
            }
            assert matches
            seen |= matches
    assert len(seen) == 8


def flipped(image, turns, mirror):
    """Mirrored or not, then turned; a mirrored turn is its own inverse."""
    return np.rot90(image[:, ::-1] if mirror else image, turns)


def shrunk(image):
    return Image.fromarray(np.ascontiguousarray(image)).resize((12, 12), Image.Resampling.BICUBIC)


def test_every_pixel_is_as_likely_to_be_queried():
    rng, count = np.random.default_rng(0), np.zeros(35)
    for _ in range(4000):
        places = _distinct_places(rng, 35, 16)
        assert len(set(places.tolist())) == 16
        count[places] += 1
    np.testing.assert_allclose(count / 4000, 16 / 35, atol=0.04)


def test_queries_are_distinct_pixel_centres(photos):
    (batch,) = StepBatches(photos, tiny_config())[2]
    centres = pixel_centres(batch.hr_size[0])
    assert torch.isin(batch.coord, centres).all()
    for coord in batch.coord:
        assert len(torch.unique(coord, dim=0)) == 64


def test_every_photo_is_used_once_per_epoch(photos):
    dataset = StepBatches(photos, tiny_config())
    for epoch in range(2):
        names = [name for step in range(4 * epoch, 4 * epoch + 4) for name in dataset[step][0].names]
        assert sorted(names) == sorted(photos.names)


def sampler(*overrides):
    return ScaleGroupSampler(tiny_config("train.distillation=0", "sampling.widths=one", *overrides))


def test_draws_keep_to_their_group_and_follow_the_weights():
    paper = sampler("sampling.group_weights=[1, 1, 1, 5]", "sampling.full_width_probability=[0.6, 0, 0, 0]")
    draws = [paper.draws(step)[0] for step in range(4000)]
    for draw in draws:
        low, high = PAPER_SUBNETS[draw.group].scales
        assert low <= draw.scale[0] == draw.scale[1] <= high
        assert draw.group == 0 or draw.subnets == (draw.group,)
    assert np.mean([draw.group == 3 for draw in draws]) == pytest.approx(5 / 8, abs=0.03)
    first = [draw.subnets for draw in draws if draw.group == 0]
    assert {*first} == {(0,), (3,)}
    assert np.mean([subnets == (3,) for subnets in first]) == pytest.approx(0.6, abs=0.06)


def test_some_steps_train_any_network_and_some_the_lowest_scale():
    draws = [
        sampler("sampling.random_width_probability=0.5", "sampling.lowest_scale_probability=0.2").draws(step)[0]
        for step in range(4000)
    ]
    for index in range(4):
        drawn = np.mean([draw.subnets == (index,) for draw in draws if draw.group == 2])
        assert drawn == pytest.approx(0.5 * (index == 2) + 0.125, abs=0.05)
    assert np.mean([draw.scale == (1, 1) for draw in draws if draw.group == 0]) == pytest.approx(0.2, abs=0.04)
    assert all(draw.scale[0] > 1.7 for draw in draws if draw.group > 0)


def test_some_draws_have_a_factor_for_each_axis():
    draws = [sampler("sampling.asymmetric_probability=0.4").draws(step)[0] for step in range(4000)]
    apart = [draw for draw in draws if draw.scale[0] != draw.scale[1]]
    assert len(apart) / len(draws) == pytest.approx(0.4, abs=0.03)
    assert np.mean([draw.scale[0] > draw.scale[1] for draw in apart]) == pytest.approx(0.5, abs=0.05)
    for draw in apart:
        low, high = PAPER_SUBNETS[draw.group].scales
        assert low <= max(draw.scale) <= high
        assert 1 <= min(draw.scale) <= max(draw.scale)
    assert min(min(draw.scale) for draw in apart if draw.group == 3) < 1.1
    # All else is as without: the draw is the last of a step's random numbers.
    without = [sampler().draws(step)[0] for step in range(50)]
    assert [(max(draw.scale), draw.group, draw.subnets) for draw in draws[:50]] == [
        (draw.scale[0], draw.group, draw.subnets) for draw in without
    ]


def test_a_network_of_one_factor_has_no_asymmetric_draws():
    with pytest.raises(UserError, match=r"asymmetric_probability 0\.1 has no effect on a network that enlarges by 2"):
        load_config(None, ["model=edsr-baseline-x2", "sampling.asymmetric_probability=0.1"])


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ("one", {0: (0,), 1: (1,), 2: (2,), 3: (3,)}),
        ("pair", {0: (3, 0), 1: (3, 1), 2: (3, 2), 3: (3,)}),
        ("sandwich", {0: (3, 0), 1: (3, 1, 0), 2: (3, 2, 0), 3: (3, 0)}),
    ],
)
def test_each_step_trains_the_networks_of_its_rule(widths, expected):
    draws = [sampler(f"sampling.widths={widths}").draws(step)[0] for step in range(40)]
    assert {draw.group: draw.subnets for draw in draws} == expected


@pytest.mark.parametrize("widths", ["one", "pair", "sandwich"])
def test_weights_by_cost_give_each_group_the_same_compute(widths):
    given = ("sampling.group_weights=cost", f"sampling.widths={widths}")
    chance = "sampling.full_width_probability=0.3" if widths == "one" else "data.lr_crop_px=12"
    by_cost, macs = sampler(*given, chance), crop_macs(tiny_config())
    assert sorted(macs) == [*macs]
    assert macs[0] < macs[-1]
    spent = np.zeros(4)
    for step in range(6000):
        (draw,) = by_cost.draws(step)
        spent[draw.group] += sum(macs[subnet] for subnet in draw.subnets)
    np.testing.assert_allclose(spent / spent.sum(), 0.25, atol=0.015)
