"""What a run finds of an earlier one that is damaged."""

import json
import shutil

import pytest
from mlflow import MlflowClient

from pipeline.data.prepare import Preparation, prepare
from pipeline.errors import FatalError, UserError
from pipeline.run import run_training
from pipeline.tracking.metric_log import MetricLog
from pipeline.train.local import fit_locally
from tests.conftest import ROOT
from tests.tiny import tiny_config


@pytest.mark.parametrize("name", ["config.yaml", "scores.json"])
@pytest.mark.parametrize("content", [b"a: [", b"\x80\x00\xff", b"", b"- 1"])
def test_damaged_records_are_named_with_the_mend(tmp_path, name, content):
    config = tiny_config("tracking.backend=jsonl", f"run.storage={tmp_path}", "run.name=r")
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{folder}/{name} is damaged; remove it") as caught:
        run_training(config, lambda config, sink: pytest.fail("it was started"))
    assert "\n" not in str(caught.value)
    assert (folder / name).read_bytes() == content


def test_a_folder_that_cannot_be_held_is_named(tmp_path):
    (tmp_path / "r/.lock").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write .*r/\.lock \(Is a directory\), which .* the run 'r'; make"):
        run_training(tiny_config("tracking.backend=jsonl", f"run.storage={tmp_path}", "run.name=r"), pytest.fail)
    with pytest.raises(UserError, match=r"cannot write .*r/\.lock \(Is a directory\)"):
        prepare([], Preparation(tmp_path / "r"))


def test_a_change_that_cannot_be_gone_on_with_leaves_the_record_as_it_was(tmp_path):
    before = tiny_config("tracking.backend=jsonl", f"run.storage={tmp_path}", "run.name=r")
    (tmp_path / "r/checkpoints/step_000000024").mkdir(parents=True)
    (tmp_path / "r/config.yaml").write_text(before.to_yaml())

    def fit(config, sink):
        raise FatalError("the run has done 24 steps already")

    changed = ("train.steps=3", "run.allow_changes=true", "tracking.backend=jsonl", "run.name=r")
    with pytest.raises(FatalError):
        run_training(tiny_config(*changed, f"run.storage={tmp_path}"), fit)
    assert (tmp_path / "r/config.yaml").read_text() == before.to_yaml()


def failing(config, sink):
    """A start that gets as far as its first metrics."""
    log = MetricLog(sink.open())
    log.add(1, {"loss": config.train.learning_rate})
    log.flush()
    log.close()
    raise FatalError("the loss is no number")


@pytest.mark.parametrize("backend", ["jsonl", "mlflow"])
def test_a_start_that_got_to_no_checkpoint_keeps_no_corrected_one_from_its_name(tmp_path, backend):
    where = (f"tracking.backend={backend}", f"tracking.uri=sqlite:///{tmp_path}/m.db", f"run.storage={tmp_path}")
    sinks = []

    def fit(config, sink):
        sinks.append(sink)
        failing(config, sink)

    for rate in (0.5, 0.25, 0.25, 0.5):
        with pytest.raises(FatalError, match="no number"):
            run_training(tiny_config(*where, "run.name=r", f"train.learning_rate={rate}"), fit)
        assert f"learning_rate: {rate}" in (tmp_path / "r/config.yaml").read_text()
        sink = sinks[-1]
        if backend == "jsonl":
            lines = (tmp_path / "r/metrics.jsonl").read_text().splitlines()
            assert [json.loads(line)["value"] for line in lines if '"loss"' in line] == [rate]
        else:
            run = MlflowClient(sink.target).get_run(sink.run_id).data
            assert (run.params["train.learning_rate"], run.metrics["loss"]) == (str(rate), rate)
    assert (sinks[1] == sinks[2]) and (backend == "jsonl" or len({sink.run_id for sink in sinks}) == 3)


@pytest.mark.parametrize("kept", ["checkpoints/step_000000004/state.pt", "checkpoint_manager_snapshot.json"])
def test_a_run_with_a_checkpoint_keeps_its_configuration(tmp_path, kept):
    where = ("tracking.backend=jsonl", f"run.storage={tmp_path}", "run.name=r")
    with pytest.raises(FatalError, match="no number"):
        run_training(tiny_config(*where), failing)
    (tmp_path / "r" / kept).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "r" / kept).touch()
    before = [(tmp_path / "r" / name).read_bytes() for name in ("config.yaml", "metrics.jsonl")]
    with pytest.raises(FatalError, match=r"train\.learning_rate: 0\.001 -> 0\.5"):
        run_training(tiny_config(*where, "train.learning_rate=0.5"), pytest.fail)
    assert [(tmp_path / "r" / name).read_bytes() for name in ("config.yaml", "metrics.jsonl")] == before


def test_a_run_that_ended_and_lost_its_checkpoints_is_not_begun_again(tmp_path, capsys):
    where = ("tracking.backend=jsonl", f"run.storage={tmp_path}", "run.name=r", "train.steps=4")
    assert run_training(tiny_config(*where), fit_locally) == 0
    shutil.rmtree(tmp_path / "r/checkpoints")
    before = {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    longer = tiny_config(*where, "train.steps=8", "run.allow_changes=true")
    with pytest.raises(UserError, match=r"are gone: .*bring them back .*train\.init_from=.*/r/model\.safetensors"):
        run_training(longer, pytest.fail)
    (tmp_path / "r/scores.json").unlink()  # its end was cut short
    with pytest.raises(UserError, match="are gone"):
        run_training(longer, pytest.fail)
    (tmp_path / "r/scores.json").write_bytes(before["scores.json"])
    assert run_training(tiny_config(*where), pytest.fail) == 0
    assert "is finished" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()} == before


def test_what_is_likely_not_meant_is_said_at_the_start(tmp_path, capsys):
    photos = ROOT / "pipeline/data/photos/validation"
    config = tiny_config("tracking.backend=jsonl", f"run.storage={tmp_path}", f"data.train={photos}",
                         "train.warmup_steps=30")  # fmt: skip

    def fit(config, sink):
        raise FatalError("enough")

    with pytest.raises(FatalError, match="enough"):
        run_training(config, fit)
    said = capsys.readouterr().out
    assert "warning: 4 of the 4 photos to validate on are trained on, too" in said
    assert "warning: train.warmup_steps 30 leaves nothing of train.steps 24" in said
    assert f"to train on: {photos}" in said
