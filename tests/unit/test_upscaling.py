"""Pictures through the network: modes, transparency, budgets, tiles and fallbacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import anysr
from anysr.amounts import parse_bytes, parse_macs, parse_seconds, show_macs, show_seconds
from anysr.cli.inputs import collect_jobs
from anysr.imaging import Metadata, Picture
from anysr.upscaling import BudgetError, Enlargement, Limits, Request, Upscaler
from anysr.upscaling import upscaler as upscaler_module
from anysr.upscaling.memory import peak_bytes, resident_bytes
from anysr.upscaling.profile import DeviceProfile, Measurement
from anysr.upscaling.strips import NotFiniteError
from anysr.upscaling.targets import parse_scale, parse_size
from tests.enlarging import bilinear_network, smooth

SAME, TWICE = Request(Enlargement((1.0, 1.0))), Request(Enlargement((2.0, 2.0)))


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler(bilinear_network())


@pytest.fixture(scope="module")
def random_upscaler() -> Upscaler:
    """Weights that do something everywhere."""
    model = bilinear_network()
    torch.nn.init.normal_(list(model.decoder.parameters())[-2], std=0.3)
    return Upscaler(model)


@pytest.mark.parametrize("peak", [255, 65_535])
@pytest.mark.parametrize(("channels", "has_alpha"), [(1, False), (1, True), (3, False), (3, True), (4, False)])
def test_times_one_is_the_picture_itself(upscaler, peak, channels, has_alpha):
    planes = smooth(14, 19, channels + 1, peak)
    alpha = np.maximum(planes[..., -1], peak // 8) if has_alpha else None
    picture = Picture(planes[..., :-1], alpha, Metadata(dpi=(72, 72)), "PNG")
    result = upscaler.enlarge(picture, SAME).picture
    assert np.array_equal(result.colour, picture.colour)
    assert alpha is None or np.array_equal(result.alpha, alpha)
    assert result.metadata == picture.metadata


@pytest.mark.parametrize("peak", [255, 65_535])
@pytest.mark.parametrize(("channels", "has_alpha"), [(1, False), (1, True), (3, True), (4, False)])
def test_means_are_kept(upscaler, peak, channels, has_alpha):
    planes = smooth(24, 31, channels + 1, peak)
    picture = Picture(planes[..., :-1], planes[..., -1] if has_alpha else None)
    result = upscaler.enlarge(picture, TWICE).picture
    assert result.size == (48, 62)
    if not has_alpha:
        assert result.colour.mean(axis=(0, 1)) == pytest.approx(planes[..., :-1].mean(axis=(0, 1)), abs=0.004 * peak)
    else:
        assert result.alpha.mean() == pytest.approx(picture.alpha.mean(), abs=0.004 * peak)


def test_no_fringe_around_what_is_visible(upscaler):
    """A red disc on transparent black: what is visible stays red, whatever the hidden colour."""
    y, x = np.mgrid[:32, :32]
    distance = np.hypot(y - 15.5, x - 15.5)
    alpha = (np.clip(11 - distance, 0, 1) * 255).round().astype(np.uint8)
    for hidden in (0, 255):
        colour = np.full((32, 32, 3), hidden, np.uint8)
        colour[alpha > 0] = (200, 30, 40)
        result = upscaler.enlarge(Picture(colour, alpha), replace(TWICE, enlargement=Enlargement((2.6, 2.6)))).picture
        visible = result.alpha > 0
        assert np.abs(result.colour[visible].astype(int) - (200, 30, 40)).max() <= 1
        assert result.alpha.mean() == pytest.approx(alpha.mean(), abs=1)


def test_alpha_that_is_the_same_everywhere_costs_nothing(upscaler):
    picture = Picture(smooth(8, 9, 3), np.full((8, 9), 77, np.uint8))
    result = upscaler.enlarge(picture, TWICE)
    assert result.plan.passes == 1
    assert np.unique(result.picture.alpha).tolist() == [77]
    hidden = upscaler.enlarge(replace(picture, alpha=np.zeros((8, 9), np.uint8)), TWICE).picture
    assert np.array_equal(hidden.colour, upscaler.enlarge(Picture(picture.colour), TWICE).picture.colour)
    assert upscaler.plan(replace(picture, alpha=smooth(8, 9, 1)[..., 0]), TWICE).passes == 2


def test_grey_and_rgb_agree(random_upscaler):
    grey = smooth(13, 17, 1) // 2 + 64
    as_grey = random_upscaler.enlarge(Picture(grey), TWICE).picture.colour
    as_rgb = random_upscaler.enlarge(Picture(grey.repeat(3, axis=2)), TWICE).picture.colour
    assert as_grey.shape == (26, 34, 1)
    assert np.abs(as_rgb.mean(axis=2, keepdims=True) - as_grey).max() <= 1


@pytest.mark.parametrize(
    ("enlargement", "size"),
    [
        (Enlargement(parse_scale("2.37")), (71, 95)),
        (Enlargement(parse_scale("2x3.1")), (60, 124)),
        (Enlargement(size=parse_size("101x67")), (67, 101)),
        (Enlargement(width=100), (75, 100)),
        (Enlargement(height=61), (61, 81)),
        (Enlargement(long_edge=123), (92, 123)),
    ],
)
def test_how_large(upscaler, enlargement, size):
    assert upscaler.enlarge(Picture(smooth(30, 40, 3)), Request(enlargement)).picture.size == size


def test_answers_are_those_of_the_network(random_upscaler):
    picture = Picture(smooth(20, 26, 3))
    request = Request(Enlargement((1.7, 2.2)))
    lr = torch.from_numpy(picture.colour).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        expected = random_upscaler.model(lr, (1.7, 2.2))[0].permute(1, 2, 0)
    for tile in ("auto", None, 7):
        result = random_upscaler.enlarge(picture, replace(request, tile=tile)).picture.colour
        assert np.abs(result - (expected.clamp(0, 1) * 255).numpy()).max() <= 0.51


def test_self_ensemble_knows_no_direction(random_upscaler):
    request = replace(TWICE, self_ensemble=True, enlargement=Enlargement((2.0, 1.5)))
    turned = replace(request, enlargement=Enlargement((1.5, 2.0)))
    colour = smooth(11, 15, 3)
    result = random_upscaler.enlarge(Picture(colour), request)
    other = random_upscaler.enlarge(Picture(np.ascontiguousarray(np.rot90(colour))), turned)
    assert np.abs(np.rot90(result.picture.colour).astype(int) - other.picture.colour).max() <= 1
    single = random_upscaler.enlarge(Picture(colour), replace(request, self_ensemble=False))
    assert not np.array_equal(single.picture.colour, result.picture.colour)
    assert result.plan.macs == 8 * single.plan.macs


def test_a_budget_chooses_a_smaller_subnet(upscaler):
    picture, request = Picture(smooth(30, 40, 3)), Request(Enlargement((3.0, 3.0)))
    costs = [anysr.cost(upscaler.model, (30, 40), 3.0, i).macs for i in range(3)]
    free = upscaler.plan(picture, request)
    assert (free.subnet.index, free.macs) == (2, costs[2])
    for index in (1, 0):
        plan = upscaler.plan(picture, replace(request, limits=Limits(macs=costs[index])))
        assert (plan.subnet.index, plan.own.index, plan.macs) == (index, 2, costs[index])
    with pytest.raises(BudgetError, match=r"even subnet 0 .* multiply-adds") as refused:
        upscaler.plan(picture, replace(request, limits=Limits(macs=costs[0] - 1)))
    nearest = str(refused.value).split("(budget ")[1].split(")")[0]
    assert upscaler.plan(picture, replace(request, limits=Limits(macs=parse_macs(nearest)))).subnet.index == 0
    # A budget never makes a subnet larger than the scale's own.
    small = upscaler.plan(picture, Request(Enlargement((1.5, 1.5)), Limits(macs=1e15)))
    assert small.subnet.index == 0


def linear_profile(scatter: float = 1.0) -> DeviceProfile:
    """Subnet i takes (i + 1) ms + 1 us an LR pixel + 2 us an HR pixel; one run in ten is slower."""
    found = []
    for subnet in range(3):
        for side, scale in ((16, 2), (32, 1.5), (32, 4), (64, 2), (64, 3)):
            seconds = (subnet + 1) * (1e-3 + side**2 * 1e-6 + (side * scale) ** 2 * 2e-6)
            runs = (seconds,) * 9 + (seconds * scatter,)
            found.append(Measurement(subnet, "fp32", (side, side), (int(side * scale),) * 2, runs))
    return DeviceProfile("digest", "device", tuple(found))


def test_times_between_and_beyond_the_measured_ones(tmp_path):
    profile = linear_profile()
    expected = 1.1 * 2 * (1e-3 + 40 * 50e-6 + 100 * 125 * 2e-6)
    assert profile.seconds(1, (40, 50), (100, 125), "fp32") == pytest.approx(expected, rel=1e-6)
    assert linear_profile(1.5).seconds(1, (40, 50), (100, 125), "fp32") >= expected * 1.4
    with pytest.raises(ValueError, match="nothing of subnet 1 in bf16"):
        profile.seconds(1, (40, 50), (100, 125), "bf16")
    profile.save(tmp_path / "p.json")
    assert DeviceProfile.load(tmp_path / "p.json") == profile
    good = (tmp_path / "p.json").read_text()
    for text in ("{}", good.replace('"seconds": [', '"seconds": [NaN,', 1)):
        (tmp_path / "p.json").write_text(text)
        with pytest.raises(ValueError, match="no device profile"):
            DeviceProfile.load(tmp_path / "p.json")
    assert (profile.knows(3, "fp32"), profile.knows(4, "fp32"), profile.knows(3, "bf16")) == (True, False, False)


def test_a_limit_on_time_chooses_a_smaller_subnet(upscaler):
    timed = Upscaler(upscaler.model, profile=linear_profile())
    picture, request = Picture(smooth(40, 50, 3)), Request(Enlargement((3.0, 3.0)))
    times = [linear_profile().seconds(i, (40, 50), (120, 150), "fp32") for i in range(3)]
    plan = timed.plan(picture, replace(request, limits=Limits(seconds=times[1] * 1.01)))
    assert (plan.subnet.index, plan.own.index) == (1, 2)
    assert plan.seconds == pytest.approx(times[1])
    for tenths in (9.9, 0.1):  # of a millisecond and less, too: what is suggested is enough
        with pytest.raises(BudgetError, match="latency") as refused:
            timed.plan(picture, replace(request, limits=Limits(seconds=times[0] * tenths / 10)))
        least = parse_seconds(str(refused.value).split("(latency ")[1].split(")")[0])
        assert timed.plan(picture, replace(request, limits=Limits(seconds=least))).subnet.index == 0
    with pytest.raises(ValueError, match="anysr profile"):
        upscaler.plan(picture, replace(request, limits=Limits(seconds=1)))


def test_a_16_bit_picture_and_a_profile_without_float32(upscaler):
    """It takes float32 whatever was asked for: no time is told, and a limit on time says what to measure."""
    halves = tuple(replace(one, precision="bf16") for one in linear_profile().measurements)
    timed = Upscaler(upscaler.model, profile=DeviceProfile("digest", "device", halves))
    picture, request = Picture(smooth(9, 10, 3, 65_535)), replace(TWICE, precision="bf16")
    assert timed.enlarge(picture, request).plan.seconds is None
    with pytest.raises(ValueError, match="anysr profile --precision fp32"):
        timed.enlarge(picture, replace(request, limits=Limits(seconds=1)))


def test_half_precision_that_overflows_is_computed_again(random_upscaler, monkeypatch):
    model = bilinear_network()
    with torch.no_grad():
        model.encoder.tail.weight.mul_(1e30)
    assert torch.isinf(model.encoder.tail.weight.half()).any()
    picture = Picture(smooth(9, 10, 3))
    half = Upscaler(model).enlarge(picture, replace(TWICE, precision="fp16"))
    assert half.request.precision == "fp32"
    assert "fp16 overflowed, computed in fp32" in half.picture.notes
    full = Upscaler(model).enlarge(picture, TWICE)
    assert np.array_equal(half.picture.colour, full.picture.colour)
    with torch.no_grad():
        model.decoder.layers[-1].bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinity in fp32"):
        Upscaler(model).enlarge(picture, TWICE)


def test_bf16_is_near_and_16_bit_pictures_refuse_it(random_upscaler):
    picture = Picture(smooth(16, 18, 3))
    full = random_upscaler.enlarge(picture, TWICE).picture.colour.astype(int)
    half = random_upscaler.enlarge(picture, replace(TWICE, precision="bf16"))
    assert half.request.precision == "bf16"
    assert np.abs(half.picture.colour - full).mean() < 3
    deep = random_upscaler.enlarge(Picture(smooth(16, 18, 3, 65_535)), replace(TWICE, precision="bf16"))
    assert deep.request.precision == "fp32"
    assert deep.picture.notes == ("16 bits need fp32",)


@pytest.mark.parametrize("ensemble", [False, True])
def test_progress_is_told_while_encoding(random_upscaler, ensemble):
    told: list[float] = []
    random_upscaler.enlarge(
        Picture(smooth(16, 18, 3, 255)), replace(TWICE, tile=8, self_ensemble=ensemble), told.append
    )
    assert told == sorted(told) and told[-1] == 1
    if ensemble:
        assert told == [number / 8 for number in range(1, 9)] + [1]
    else:
        encoder = random_upscaler.model.config.encoder
        assert len(told) > encoder.num_blocks and 0 < told[0] < 1 / encoder.num_blocks + 1e-9


def failing(monkeypatch, largest_tile: int, error: Exception) -> list[object]:
    """Let the network run out of memory but in tiles of at most so many pixels."""
    asked, answer = [], upscaler_module.answer_strips

    def strips(model, lr, target, subnet, tile, **options):
        asked.append(tile)
        if not isinstance(tile, int) or tile > largest_tile:
            raise error
        return answer(model, lr, target, subnet, tile, **options)

    monkeypatch.setattr(upscaler_module, "answer_strips", strips)
    return asked


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["accelerator", "python", "cpu"],
)
def test_smaller_tiles_when_memory_runs_out(upscaler, monkeypatch, error):
    picture = Picture(smooth(20, 20, 3))
    expected = upscaler.enlarge(picture, TWICE).picture.colour
    asked = failing(monkeypatch, 64, error)
    result = upscaler.enlarge(picture, TWICE)
    assert asked == ["auto", 256, 128, 64]
    assert result.request.tile == 64
    assert np.array_equal(result.picture.colour, expected)
    asked.clear()
    with pytest.raises(MemoryError, match="tiles of 100 pixels; give a smaller tile"):
        upscaler.enlarge(picture, replace(TWICE, tile=100))
    assert asked == [100]
    failing(monkeypatch, 0, error)
    with pytest.raises(MemoryError, match="tiles of 32"):
        upscaler.enlarge(picture, TWICE)


def test_other_errors_are_not_taken_for_lack_of_memory(upscaler, monkeypatch):
    failing(monkeypatch, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        upscaler.enlarge(Picture(smooth(8, 8, 3)), TWICE)
    failing(monkeypatch, 0, NotFiniteError())
    with pytest.raises(ValueError, match="NaN"):
        upscaler.enlarge(Picture(smooth(8, 8, 3)), TWICE)


def test_a_limit_on_memory_chooses_tiles(upscaler):
    picture = Picture(smooth(600, 700, 3))
    plan = upscaler.plan(picture, SAME)
    whole = peak_bytes(upscaler.model, plan, "fp32", "auto", 3)
    tiled = peak_bytes(upscaler.model, plan, "fp32", 64, 3)
    assert resident_bytes() < tiled < whole
    ensemble = upscaler.plan(picture, replace(SAME, self_ensemble=True))
    assert peak_bytes(upscaler.model, ensemble, "fp32", "auto", 3) - whole > 3 * 3 * 4 * 600 * 700 - 2**20
    result = upscaler.enlarge(picture, replace(SAME, limits=Limits(memory=(whole + tiled) // 2)))
    assert isinstance(result.request.tile, int)
    assert np.array_equal(result.picture.colour, picture.colour)
    with pytest.raises(BudgetError, match=r"of memory \(limit \d+M\)"):
        upscaler.enlarge(picture, replace(SAME, limits=Limits(memory=2**20)))


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_macs, "50G", 50e9),
        (parse_macs, "1.5t", 1.5e12),
        (parse_macs, "3e9", 3e9),
        (parse_seconds, "200ms", 0.2),
        (parse_seconds, "2 min", 120),
        (parse_bytes, "2G", 2 * 2**30),
        (parse_bytes, "512MiB", 512 * 2**20),
        (parse_scale, "2.37", (2.37, 2.37)),
        (parse_scale, "2x3.1", (2.0, 3.1)),
        (parse_size, "1920x1080", (1080, 1920)),
    ],
)
def test_amounts(parse, text, value):
    assert parse(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("parse", "text"),
    [(parse_macs, "much"), (parse_macs, "-3G"), (parse_macs, "0"), (parse_macs, "1e308T"),
     (parse_seconds, "1e308h"), (parse_bytes, "1e308G"), (parse_bytes, "0.1"), (parse_scale, "1e308"),
     (parse_seconds, "3 parsecs"), (parse_bytes, "2X"),
     (parse_scale, "0.5"), (parse_scale, "nan"), (parse_scale, "2x"), (parse_size, "1920"), (parse_size, "0x9")],
)  # fmt: skip
def test_nonsense_is_refused(parse, text):
    with pytest.raises(ValueError, match=r"got|at least 1"):
        parse(text)


def test_how_amounts_read():
    assert [show_macs(v) for v in (999, 1.2345e9, 5e13)] == ["999", "1.234 G", "50 T"]
    assert [show_seconds(v) for v in (0.187, 1.84, 200, 7260)] == ["187 ms", "1.84 s", "3 min 20 s", "2 h 1 min"]


def test_shrinking_is_refused(upscaler):
    for enlargement in (Enlargement(size=(10, 100)), Enlargement(width=10), Enlargement(long_edge=39)):
        with pytest.raises(ValueError, match="smaller than the image"):
            upscaler.plan(Picture(smooth(30, 40, 3)), Request(enlargement))


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """Photos beside links to folders: back to the top, and to a folder elsewhere."""
    for name in ("g/a.png", "g/deep/b.png", "g/.hidden/c.png", "g/[x]/e.png", "elsewhere/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "g/loop").symlink_to(tmp_path / "g")
    (tmp_path / "g/deep/again").symlink_to(tmp_path / "g")
    (tmp_path / "g/deep/other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "g/deep/photo.png").symlink_to(tmp_path / "elsewhere/d.png")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("g/**/*.png", {"a.png", "deep/b.png", "deep/photo.png", "[x]/e.png"}),
        ("g/**", {"a.png", "deep/b.png", "deep/photo.png", "[x]/e.png"}),
        ("g/**/**/*.png", {"a.png", "deep/b.png", "deep/photo.png", "[x]/e.png"}),
        ("**/[ab].png", {"g/a.png", "g/deep/b.png"}),
        ("g/**/other/*.png", {"deep/other/d.png"}),
        ("g/deep/other/**/*.png", {"d.png"}),
        ("g/*/b.png", {"deep/b.png"}),
        ("g/loop/deep/*.png", {"b.png", "photo.png"}),
        ("g/.hid*/**/*.png", {".hidden/c.png"}),
        ("g/d**/*.png", {"deep/b.png", "deep/photo.png"}),
    ],
)
@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_glob_of_any_depth_does_not_follow_links(pattern, found, is_absolute, linked, monkeypatch):
    monkeypatch.chdir(linked)
    jobs, unread = collect_jobs([f"{linked}/{pattern}" if is_absolute else pattern], "out", None)
    assert not unread
    assert {job.target.relative_to("out").as_posix() for job in jobs} == found
    assert len(jobs) == len(found)
