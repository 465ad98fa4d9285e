"""What a run finds of an earlier one that is damaged."""

import pytest

from pipeline.data.prepare import Preparation, prepare
from pipeline.errors import FatalError, UserError
from pipeline.run import run_training
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
    (tmp_path / "r").mkdir()
    (tmp_path / "r/config.yaml").write_text(before.to_yaml())

    def fit(config, sink):
        raise FatalError("the run has done 24 steps already")

    changed = ("train.steps=3", "run.allow_changes=true", "tracking.backend=jsonl", "run.name=r")
    with pytest.raises(FatalError):
        run_training(tiny_config(*changed, f"run.storage={tmp_path}"), fit)
    assert (tmp_path / "r/config.yaml").read_text() == before.to_yaml()


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
