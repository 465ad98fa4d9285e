from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import anysr
from anysr.cost import cost, mean_macs
from pipeline.config_file import load_config
from pipeline.errors import UserError
from pipeline.run import run_training
from pipeline.run_folder import RunFolder
from pipeline.search import search as search_module
from pipeline.search.ablation import ablation_rows
from pipeline.search.ledger import Report, Trial
from pipeline.search.objectives import Objectives, pareto_front, step_macs, steps_for
from pipeline.search.partition import group_weights, growing_widths, scale_groups
from pipeline.search.proposals import open_proposals
from pipeline.search.run import run_search
from pipeline.search.search import NotNowError, Search
from pipeline.search.space import load_space
from pipeline.tracking.tracker import FileTracker
from tests.conftest import ROOT

BASE = ROOT / "jobs/configs/photos.yaml"
SPACE = ROOT / "jobs/configs/search.yaml"
TINY = """
search: {trials: 6, reports: 2, seed: 3}
model:
  encoder: {num_blocks: 1, channels: 16}
  decoder: {hidden: 16, num_layers: 2}
  width_multiple: 1
  interweave: {interval: {choose: [4, 8, null]}}
  subnets: {groups: {choose: [2, 3]}, edges: {between: [0.8, 1.25]}, encoder_width: {between: [0.25, 0.5]}}
data: {lr_crop_px: 12, queries_per_crop: 64}
train: {steps: 20, batch_size: 2}
validation: {scales: [2, 4], crop_px: 48}
ray: {num_workers: 1}
tracking: {backend: jsonl}
"""


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "space.yaml").write_text(TINY)

    def load(*overrides):
        return load_space(tmp_path / "space.yaml", BASE, [f"run.storage={tmp_path}/runs", "run.name=s", *overrides])

    return load


class TestSpace:
    @pytest.mark.parametrize("space", ["search.yaml", "ablation.yaml"])
    @pytest.mark.parametrize("config", ["photos.yaml", "anysr-tiny.yaml", "anysr-base.yaml"])
    def test_the_shipped_spaces_are_valid_in_all_corners_over_each_shipped_configuration(self, space, config):
        assert len(load_space(ROOT / "jobs/configs" / space, ROOT / "jobs/configs" / config).corner_configs) > 10

    def test_the_reference_is_the_base_configuration_under_the_overlay(self):
        reference = load_space(SPACE, BASE).reference()
        plain = load_config(BASE)
        assert reference.model.subnets == plain.model.subnets
        assert reference.model.encoder == replace(plain.model.encoder, num_blocks=4)
        assert reference.train.steps == yaml.safe_load(SPACE.read_text())["train"]["steps"]

    @pytest.mark.parametrize(
        "text",
        [
            "sampling: {group_weights: {last_over_first: {between: [0.5, 2], log: true}}}",
            "model: {subnets: {groups: {choose: [2, 3]}, encoder_width: 0.5}}",
            "train: {learning_rate: {choose: [0.001, 0.0001]}}",
        ],
    )
    def test_a_space_without_a_model_is_over_the_default_one(self, text, tmp_path):
        (tmp_path / "space.yaml").write_text(text)
        space = load_space(tmp_path / "space.yaml", None)
        assert space.reference().model == load_config(None).model
        assert len(space.corner_configs) > 1

    def test_choices_become_a_configuration(self):
        space = load_space(SPACE, BASE)
        config = space.config(
            {"model.interweave.interval": None, "model.subnets.groups": 3, "model.subnets.encoder_width": 0.25}
        )
        assert config.model.interweave is None
        assert [group.scales for group in config.model.subnets] == [(1, 2), (2, 3), (3, 4)]
        assert [group.encoder_width for group in config.model.subnets] == [0.25, 0.75, 1.0]

    def test_numbers_with_a_step_stay_on_its_grid(self):
        (width,) = load_space(
            SPACE, BASE, ["model.interweave.interval=16", "model.subnets={groups: 2, encoder_width: 0.5}",
                          "sampling.random_width_probability={between: [0.25, 0.75], step: 0.03125}"],
        ).variables.values()  # fmt: skip
        values = [width.decoded(value) for value in (0.25, 0.53125, 0.5312, 0.75)]
        assert values == [0.25, 0.53125, 0.53125, 0.75]
        assert all(width.distribution._contains(value) for value in values)

    def test_groups_may_be_listed_and_lists_may_hold_whole_numbers(self):
        groups = "[{scales: [1, 2], encoder_width: {choose: [0.25, 0.5]}}, {scales: [2, 4]}]"
        space = load_space(
            SPACE, BASE, [f"model.subnets={groups}", "data.degradation.jpeg=0.5",
                          "data.degradation.jpeg_quality=[{between: [50, 70]}, 95]"],
        )  # fmt: skip
        assert space.config({"model.subnets.0.encoder_width": 0.25}).model.subnets[0].encoder_width == 0.25
        assert space.reference().data.degradation.jpeg_quality == (50, 95)
        quality = space.variables["data.degradation.jpeg_quality.0"]
        assert isinstance(quality.decoded(60), int)

    def test_any_value_may_be_a_choice(self):
        space = load_space(
            SPACE, BASE,
            ["train.learning_rate={between: [1e-4, 1e-2], log: true}", "sampling.widths={choose: [one, pair]}",
             "sampling.full_width_probability=0", "model.interweave.parity_sign={choose: [true, false]}",
             "sampling.group_weights.last_over_first={between: [0.5, 2]}"],
        )  # fmt: skip
        config = space.config({"train.learning_rate": 3e-3, "sampling.group_weights.last_over_first": 2.0})
        assert config.train.learning_rate == 3e-3
        assert config.sampling.group_weights == (1, 1.2599, 1.5874, 2)
        assert {"sampling.widths", "model.interweave.parity_sign"} <= space.variables.keys()

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("search.trails=3", "did you mean 'trials'"),
            ("serach.trials=3", "did you mean 'search'"),
            ("xyzzy.trials=3", "allowed: data, model, ray, run, sampling, search, tracking"),
            ("model.name={choose: [anysr-tiny, anysr-base]}", "model.name must be the name of one network"),
            ("search.sampler=tpa", "should be 'tpe', 'nsga2'"),
            ("search.halving.frist=1", "did you mean 'first'"),
            ("search.trials=yes", "search.trials must be a number, got true (or yes, on)"),
            ("search.halving={factor: true}", "search.halving.factor must be a number"),
            ("train.lerning_rate={choose: [1, 2]}", "did you mean 'train.learning_rate'"),
            ("train.learning_rate={chose: [1, 2]}", "did you mean 'choose'"),
            ("model.subnets.group=3", "did you mean 'groups'"),
            ("model.subnets.encoder_width={betwen: [0.1, 1]}", "did you mean 'between'"),
            ("trian.batch_size={choose: [4]}", "did you mean 'train'"),
            ("train.learning_rate={between: [2, 1]}", "low < high"),
            ("train.batch_size={between: [4, 8.5]}", "whole number"),
            ("train.learning_rate={choose: [1e-3, 1e-3]}", "each value once"),
            ("train.steps={choose: [10, 20]}", "cannot be searched"),
            ("train={choose: [3]}", "whole section"),
            ("model.interweave.interval={choose: [0, 4]}", "model.interweave.interval=0"),
            ("model.subnets.groups={choose: [2, 40]}", "model.subnets.groups=40"),
            ("model.subnets.decoder_width={between: [0.5, 1.0]}", "widths must grow"),
            ("model.subnets.edges=[1, 2]", "2 groups need 1"),
            ("train.seed={choose: [2020-01-01, 8]}", "train.seed: Object of type date"),
            ("search.sampler=grid", "needs steps"),
            (f"run.name={'n' * 97}", "too long for a search"),
            ("train.batch_size={choose: [4, 7.5]}", "train.batch_size=7.5"),
        ],
    )
    def test_a_mistyped_space_is_refused_in_one_line(self, override, message):
        with pytest.raises((UserError, ValueError)) as caught:
            load_space(SPACE, BASE, [override])
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_space_without_choices_is_refused(self, tmp_path):
        (tmp_path / "none.yaml").write_text("train: {steps: 5}\n")
        with pytest.raises(UserError, match="holds no choice"):
            load_space(tmp_path / "none.yaml", BASE)


class TestPartition:
    def test_an_even_partition_with_widths_that_grow_evenly(self):
        model = load_config(BASE, ["model.width_multiple=8"]).model.to_dict()
        groups = scale_groups({"groups": 4, "encoder_width": 0.25, "decoder_width": 0.5}, model)
        assert [group["scales"] for group in groups] == [[1, 1.75], [1.75, 2.5], [2.5, 3.25], [3.25, 4]]
        assert [group["encoder_width"] for group in groups] == [0.25, 0.5, 0.75, 1]
        assert [group["decoder_width"] for group in groups] == [0.5, 0.625, 0.875, 1]

    def test_a_bend_makes_the_first_groups_smaller(self):
        groups = scale_groups({"groups": 2, "edges": 2.0}, load_config(BASE).model.to_dict())
        assert groups[0]["scales"] == [1, 1.75]

    @pytest.mark.parametrize("multiple", [1, 8])
    @pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
    def test_widths_grow_wherever_there_is_room(self, count, multiple):
        for narrowest in (0.1, 0.25, 0.3, 0.5):
            widths = growing_widths(narrowest, count, 64, multiple)
            channels = [anysr.slimmable.channels_at(width, 64, multiple) for width in widths]
            if 64 / multiple * (1 - narrowest) >= count:
                assert channels == sorted({*channels})
            assert channels[-1] == 64

    def test_weights_change_by_the_same_factor(self):
        assert group_weights({"last_over_first": 4}, 3) == [1, 2, 4]


class TestObjectives:
    def test_the_front_leaves_out_what_is_dominated(self):
        pairs = [(30, 2e9), (31, 3e9), (29, 3e9), (30, 2e9), (31, 4e9), (28, 1e9)]
        points = [Objectives(psnr, macs) for psnr, macs in pairs]
        assert pareto_front(points) == [5, 0, 1]

    def test_the_score_charges_each_doubling(self):
        assert Objectives(30, 4e9).score(0.25) == 29.5
        assert Objectives(30, 0.5e9).score(0.25) == 30.25

    def test_mean_multiply_adds_are_those_of_each_scale_through_its_own_subnet(self):
        model = anysr.build(load_config(BASE).model)
        steps = [1 + 3 * (i + 0.5) / 60 for i in range(60)]
        summed = sum(cost(model, (256, 256), scale).macs for scale in steps) / 60
        assert mean_macs(model) == pytest.approx(summed, rel=5e-3)
        plain = anysr.build(replace(model.config, subnets=(anysr.config.SubnetConfig((1.0, 4.0)),)))
        assert mean_macs(plain) > 1.1 * mean_macs(model)

    def test_trials_of_the_same_compute_differ_in_steps(self):
        space = load_space(SPACE, BASE)
        budget = step_macs(space.reference()) * 1000
        widths = ("model.subnets.encoder_width", "model.subnets.decoder_width")
        wide, narrow = (space.config({"model.subnets.groups": 3, **dict.fromkeys(widths, w)}) for w in (0.625, 0.25))
        assert steps_for(narrow, budget) > steps_for(wide, budget)
        for config in (wide, narrow):
            assert steps_for(config, budget) * step_macs(config) == pytest.approx(budget, rel=1e-3)


class TestProposals:
    def test_one_change_at_a_time(self):
        listed = open_proposals(load_space(ROOT / "jobs/configs/ablation.yaml", BASE)).listed
        assert listed[0] == {}
        assert [next(iter(one.values())) for one in listed[1:]] == [4, 8, 32, 64, None, 2, 3, 5, 6]

    def test_a_grid_needs_steps(self, tiny):
        with pytest.raises(UserError, match=r"give model\.subnets\.edges a step"):
            open_proposals(tiny("search.sampler=grid"))
        steps = ("model.subnets.edges=1", "model.subnets.encoder_width={between: [0.25, 0.5], step: 0.25}")
        assert len(open_proposals(tiny("search.sampler=grid", *steps)).listed) == 3 * 2 * 2

    def test_what_fails_is_proposed_no_more(self, tiny):
        """As wide encoders might that diverge."""
        proposals, failed = open_proposals(tiny("search.trials=40")), []
        for number in range(40):
            chosen = proposals.next(number).chosen
            failed.append(chosen["model.subnets.encoder_width"] > 0.35)
            outcome = (
                {"status": "failed"} if failed[-1] else {"status": "finished", "reports": [Report(1, 1, {"2": 30})]}
            )
            proposals.tell(Trial(number, chosen, {"train": {"steps": 1}}, 1e9 * (1 + number % 5), 1, **outcome))
        assert sum(failed[:10]) > 5
        assert sum(failed[20:]) < 5


class Machine:
    """Runs trials in this process: every score is a formula of the configuration. Stops where it is told."""

    def __init__(self, reports=10**6, stopping=()):
        self.left, self.stopping, self.ran = reports, stopping, []

    def __call__(self, search):
        while (assignment := search.next()) is not None:
            trial = assignment.trial
            self.ran.append((trial.number, trial.chosen))
            every = assignment.config.validation.every
            for step in (*range(every, trial.steps, every), trial.steps):
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left -= 1
                psnr = 28 + 4 * (1 - 2 ** (-trial.macs / 1e10)) + step / 100
                search.report(trial.number, step, {"2": psnr, "4": psnr - 4})
                if trial.number in self.stopping:
                    break
            search.ended(trial.number)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_killed_search_goes_on_as_if_nothing_had_happened(tiny, tmp_path, sampler):
    whole = Machine(stopping={1})
    assert run_search(tiny(f"search.sampler={sampler}", "run.name=whole"), whole) == 0
    killed = Machine(reports=5, stopping={1})
    with pytest.raises(KeyboardInterrupt):
        run_search(tiny(f"search.sampler={sampler}"), killed)
    again = Machine(stopping={1})
    assert run_search(tiny(f"search.sampler={sampler}"), again) == 0
    assert [number for number, _ in killed.ran] == [0, 1, 2, 3]
    assert [number for number, _ in again.ran] == [3, 4, 5]
    assert killed.ran[:3] + again.ran == whole.ran
    for name in ("front.csv", "trials.csv", "importance.csv", "ablation.md"):
        written = [(tmp_path / "runs" / run / name).read_text() for run in ("whole", "s")]
        assert written[0] == written[1].replace("s-0", "whole-0"), name
    third = Machine()
    assert run_search(tiny(f"search.sampler={sampler}"), third) == 0
    assert third.ran == []


class AwayTracker(FileTracker):
    """A tracker that comes and goes."""

    away, ends = False, []

    def __init__(self, config):
        if self.away:
            raise UserError("does not answer")
        super().__init__(Path(config.run.storage) / config.run.name)
        self._name = config.run.name

    def end(self, status):
        if not self.away:
            self.ends.append((self._name, status))
        return not self.away


@pytest.fixture
def away(monkeypatch):
    """The class, and a clock that is moved by hand."""
    monkeypatch.setattr(AwayTracker, "ends", [])
    monkeypatch.setattr(AwayTracker, "away", False)
    clock = SimpleNamespace(now=1.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(search_module, "time", clock)
    AwayTracker.clock = clock
    return AwayTracker


def opened(space, tmp_path, tracker):
    config = space.reference()
    folder = RunFolder(config.run.storage, config.run.name, None)
    folder.prepare(0)
    return Search(space, config, folder, tracker)


def finish(search, number):
    steps = search.trials[number].steps
    search.report(number, steps, {"2": 30.0, "4": 26.0})
    search.ended(number)


def test_a_tracker_that_is_away_for_a_while_delays_a_trial(tiny, tmp_path, away, monkeypatch):
    search = opened(tiny(), tmp_path, away)
    assert search.next().trial.number == 0
    away.away = True
    for _ in range(3):
        with pytest.raises(NotNowError):
            search.next()
    away.away, away.clock.now = False, 4.0
    again = search.next()
    assert (again.trial.number, len(search.trials)) == (1, 2)
    away.away = True
    with pytest.raises(NotNowError):
        search.next()
    away.clock.now += 400
    with pytest.raises(UserError, match="does not answer"):
        search.next()


def test_the_end_of_a_trial_is_tracked_once_the_tracker_is_back(tiny, tmp_path, away):
    search = opened(tiny(), tmp_path, away)
    search.next()
    search.next()
    search.next()
    away.away = True
    finish(search, 0)
    finish(search, 1)
    away.away, away.clock.now = False, 100.0
    finish(search, 2)
    search.next()
    assert sorted(away.ends) == [(f"s-00{number}", "FINISHED") for number in (0, 1, 2)]
    away.away = True
    finish(search, 3)
    search.interrupted()  # the process ends, MLflow still away
    away.away, away.ends[:] = False, []
    assert opened(tiny(), tmp_path, away).next().trial.number == 4
    assert away.ends == [("s-003", "FINISHED")]
    opened(tiny(), tmp_path, away).next()
    assert away.ends == [("s-003", "FINISHED")]


def test_a_trial_goes_on_with_the_clusters_and_caches_of_today(tiny, tmp_path, away):
    opened(tiny(), tmp_path, away).next()
    moved = ["ray.num_workers=2", "tracking.experiment=other", f"data.cache={tmp_path}/cache", "data.cache_gb=7"]
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    again = opened(tiny(*moved, f"run.storage={tmp_path}/elsewhere"), tmp_path, away).next()
    config = again.config
    assert (config.run.name, config.run.storage) == ("s-000", f"{tmp_path}/elsewhere/s/trials")
    assert (config.ray.num_workers, config.tracking.experiment, config.data.cache_gb) == (2, "other", 7)
    assert again.trial.config == config.to_dict()


def test_a_picture_that_is_cut_short_is_not_left(tiny, tmp_path, monkeypatch):
    def savefig(self, path, **kwargs):
        Path(path).write_bytes(b"\x89PNG")
        raise OSError("no space")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
    with pytest.raises(OSError, match="no space"):
        run_search(tiny(), Machine(stopping={1}))
    left = {path.name for path in (tmp_path / "runs/s").iterdir()}
    assert "front.csv" in left
    assert not any(name.endswith(".png") for name in left)


def test_what_a_search_leaves(tiny, tmp_path, capsys):
    assert run_search(tiny(), Machine(stopping={1})) == 0
    folder = tmp_path / "runs/s"
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    trials = (folder / "trials.csv").read_text().splitlines()
    assert len(trials) == 7
    assert "stopped" in trials[2]
    best = load_config(folder / "best.yaml", [f"run.storage={tmp_path}"])
    assert best.run.name is None
    assert best.validation.every == load_config(BASE).validation.every
    printed = capsys.readouterr().out
    for words in (
        "Pareto front",
        "ETA",
        "5 finished, 1 stopped",
        "importance of model.interweave.interval",
        "best.yaml",
    ):
        assert words in printed


def test_another_space_is_refused_and_more_trials_are_welcome(tiny):
    run_search(tiny(), Machine())
    with pytest.raises(UserError, match=r"choices\.model\.interweave\.interval"):
        run_search(tiny("model.interweave.interval={choose: [4, 8]}"), Machine())
    more = Machine()
    run_search(tiny("search.trials=7", "data.cache_gb=5", "ray.num_workers=2"), more)
    assert [number for number, _ in more.ran] == [6]


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_description_is_named(tiny, tmp_path, content):
    (tmp_path / "runs/s").mkdir(parents=True)
    (tmp_path / "runs/s/space.json").write_text(content)
    with pytest.raises(UserError, match=r"runs/s/space\.json is damaged"):
        run_search(tiny(), Machine())


def test_a_search_and_a_training_run_share_no_folder(tiny, tmp_path):
    searched, trained = tmp_path / "runs/s", tmp_path / "runs/t"
    for folder, mark in ((searched, "space.json"), (trained, "config.yaml")):
        folder.mkdir(parents=True)
        (folder / mark).write_text("{}")
    with pytest.raises(UserError, match="runs/t is the folder of a training run"):
        run_search(tiny("run.name=t"), Machine())
    with pytest.raises(UserError, match="runs/s is the folder of a search"):
        run_training(tiny().reference(), pytest.fail)


def test_failed_trials_are_tried_again(tiny, tmp_path):
    def failing(search):
        while (assignment := search.next()) is not None:
            search.ended(assignment.trial.number, "no room on the cluster")

    with pytest.raises(UserError, match="no trial has finished"):
        run_search(tiny(), failing)
    again = Machine()
    assert run_search(tiny(), again) == 0
    assert [number for number, _ in again.ran] == [0, 1, 2, 3, 4, 5]


def test_a_search_without_a_finished_trial_says_so(tiny):
    with pytest.raises(UserError, match="no trial has finished"):
        run_search(tiny("search.trials=1"), Machine(stopping={0}))


def test_the_ablation_table_compares_single_changes(tiny, tmp_path):
    once = ("search.sampler=one_at_a_time", "model.subnets.edges=1", "model.subnets.encoder_width=0.25",
            "model.interweave.interval={choose: [4, 8, null], base: 8}",
            "model.subnets.groups={choose: [2, 3], base: 3}")  # fmt: skip
    run_search(tiny(*once), Machine())
    rows = (tmp_path / "runs/s/ablation.md").read_text().splitlines()
    cells = [[cell.strip() for cell in row.split("|")[1:4]] for row in rows[2:7]]
    interval, groups = "model.interweave.interval", "model.subnets.groups"
    expected = [(interval, "4"), (interval, "8"), (interval, "none"), (groups, "2"), (groups, "3")]
    assert cells == [[choice, value, "1"] for choice, value in expected]


def test_rows_of_nothing_are_none(tiny):
    assert ablation_rows(tiny(), []) == []


def test_tunes_own_records_of_killed_searches_are_removed_and_nothing_else(tmp_path):
    from pipeline.on_ray.tune import _remove_records

    for name in ("tune-0a1b2c3d/s-000", "trials/s-000/tune-0"):
        (tmp_path / name).mkdir(parents=True)
    _remove_records(str(tmp_path), None)
    assert [path.name for path in tmp_path.iterdir()] == ["trials"]
    assert (tmp_path / "trials/s-000/tune-0").is_dir()
    _remove_records(str(tmp_path / "absent"), None)
