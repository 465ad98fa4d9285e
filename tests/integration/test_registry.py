"""jobs/register.py on a real registry, as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

import anysr
from pipeline.errors import UserError
from pipeline.registry.compare import compare
from pipeline.registry.decision import Comparison, objections
from pipeline.registry.lock import Lock
from pipeline.registry.promotion import history, promote, roll_back
from pipeline.registry.resolve import export_model, resolve_model
from pipeline.registry.versions import open_registry
from pipeline.tracking.mlflow_model import register
from pipeline.tracking.versions import COMMIT_TAG, VersionFacts
from tests.conftest import ROOT
from tests.tiny import tiny_config

NARROW = 8  # decoder channels of the first group below
GROUPS = (
    "model.subnets=[{scales: [1, 2], encoder_width: 0.5, decoder_width: 0.5}, "
    "{scales: [2, 4], encoder_width: 1, decoder_width: 1}]"
)


def network(noise: float, everywhere: float = 0.0, widths: str = GROUPS):
    """Bilinear enlargement, plus noise in the first scale group alone, and some everywhere.

    The noise comes from hidden channel 0 and is cancelled by a twin that only the full width has.
    """
    torch.manual_seed(0)
    model = anysr.build(tiny_config(widths).model)
    layers = [module for module in model.decoder.modules() if isinstance(module, torch.nn.Linear)]
    with torch.no_grad():
        layers[-1].weight.zero_()
        layers[-1].bias.fill_(everywhere)
        layers[-2].weight[NARROW] = layers[-2].weight[0]
        layers[-2].bias[:] = 0.5
        layers[-1].weight[:, 0] = noise
        layers[-1].weight[:, NARROW] = -noise
    return model


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    for i in range(2):
        y, x = np.mgrid[:96, :80]
        waves = 128 + 60 * np.sin(x / (3 + i)) + 50 * np.cos(y / 4)
        Image.fromarray(np.repeat(waves[..., None], 3, axis=2).astype(np.uint8)).save(folder / f"{i}.png")
    return f"waves={folder}"


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """A registry of four versions: 1, 2 worse in its first group alone, 3 as good as 1, 4 better but dearer."""
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri)
    experiment = client.create_experiment("x", artifact_location=(folder / "artifacts").as_uri())
    dearer = GROUPS.replace("encoder_width: 0.5", "encoder_width: 0.75")
    facts = VersionFacts("d" * 64, "v" * 64, "config.yaml", "scores.json", {2.0: 31.0}, "PSNR")
    for model in (network(0.0, 0.01), network(0.03, 0.01), network(0.0, 0.00999), network(0.0, 0.0, dearer)):
        anysr.save(model, folder / "model.safetensors")
        run = client.create_run(experiment)
        file, tags = folder / "model.safetensors", facts.tags(run.info.run_id)
        version = register(file, None, uri, run.info.run_id, "anysr", tags)
        assert register(file, None, uri, run.info.run_id, "anysr", tags) == version  # as after an interruption
    return uri


def command(uri, *arguments):
    return [sys.executable, str(ROOT / "jobs/register.py"), *arguments, "--tracking-uri", uri]


def run(uri, *arguments):
    return subprocess.run(command(uri, *arguments), capture_output=True, text=True, timeout=120)


def test_the_champion_moves_only_to_what_is_no_worse_and_back(uri, suite, tmp_path):
    registry = open_registry("anysr", uri)

    def compared(old, new):
        names = (f"models:/anysr/{version.number}" for version in (old, new))
        return compare(*names, [suite], [], uri, lambda line: None)

    def promoted(reference, margin=0.01):
        return promote(registry, registry.find(reference), compared, margin, 0.0)

    assert promoted("1") is None
    with pytest.raises(UserError, match=r"not promoted over champion 1: waves, scale group x1-2: -\d") as refused:
        promoted("2")
    assert "x2-4" not in str(refused.value)
    with pytest.raises(UserError, match="G multiply-adds, mean over the scales") as dearer:
        promoted("4")
    assert "dB at" not in str(dearer.value)
    with pytest.raises(UserError, match="is the champion already"):
        promoted("1")
    assert registry.get("@champion").number == 1
    assert promoted("3").number == 1
    assert registry.get("champion").number == 3
    present, before = roll_back(registry)
    assert (present.number, before.number) == (3, 1)
    assert (
        resolve_model("models:/anysr@champion", uri).read_bytes() == resolve_model("models:/anysr/1", uri).read_bytes()
    )
    with pytest.raises(UserError, match="no champion before version 1"):
        roll_back(registry)
    assert [(change.action, change.version) for change in history(registry)] == [
        ("promote", 1), ("promote", 3), ("rollback", 1),
    ]  # fmt: skip
    export_model("models:/anysr/3", tmp_path / "sub" / "out.safetensors", uri)
    assert len(anysr.load(tmp_path / "sub" / "out.safetensors").subnets) == 2


def test_scales_that_leave_out_a_group_do_not_promote(uri, suite):
    found = compare("models:/anysr/1", "models:/anysr/2", [suite], ["2.5"], uri, lambda line: None)
    (reason,) = objections(found, 0.01)
    assert reason == "no scale of x1-2 was compared; give --scales one in each scale group, or leave it out"
    MlflowClient(uri).set_registered_model_alias("anysr", "champion", "1")
    done = run(uri, "promote", "2", "--suite", suite, "--scales", "2.5")
    assert done.returncode == 2
    assert "not compared: scale groups x1-2" in done.stdout
    assert open_registry("anysr", uri).get("@champion").number == 1


def test_versions_whose_model_file_is_gone_or_damaged_are_not_promoted_nor_rolled_back_to(uri, tmp_path):
    client = MlflowClient(uri)
    name, registry = "lost", open_registry("lost", uri)
    experiment = client.create_experiment(name, artifact_location=(tmp_path / "artifacts").as_uri())
    files = []
    for noise in (0.0, 0.1, 0.2):
        anysr.save(network(noise), tmp_path / "model.safetensors")
        run_id = client.create_run(experiment).info.run_id
        version = register(tmp_path / "model.safetensors", None, uri, run_id, name, {})
        folder = client.get_model_version_download_uri(name, version).removeprefix("file://")
        files.append(Path(folder) / "artifacts/model.safetensors")
        resolve_model(f"models:/{name}/{version}", uri)  # this machine's copy does not count

    def promoted(number):
        same = Comparison((), 1.0, 1.0, "liif")
        return promote(registry, registry.find(number), lambda old, new: same, 0.0, 0.0)

    kept = files[0].read_bytes()
    files[0].unlink()
    with pytest.raises(UserError, match=r"version 1 cannot be read: the model file of models:/lost/1 .*bring it back"):
        promoted("1")
    assert registry.get("@champion") is None
    files[0].write_bytes(kept[:1000])
    with pytest.raises(UserError, match="version 1 cannot be read"):
        promoted("1")
    files[0].write_bytes(kept)
    promoted("1")
    promoted("2")
    files[1].unlink()
    with pytest.raises(UserError, match=r"version 2 cannot be read: .*rollback, or where its alias is taken off it"):
        promoted("3")
    files[0].unlink()
    with pytest.raises(UserError, match=r"version 1 cannot be read: .*once it is deleted"):
        roll_back(registry)
    assert registry.get("@champion").number == 2
    client.delete_registered_model_alias(name, "champion")
    assert promoted("3") is None


def test_the_command_refuses_with_a_line_and_a_code(uri, suite):
    MlflowClient(uri).set_registered_model_alias("anysr", "champion", "1")
    done = run(uri, "promote", "2", "--suite", suite, "--margin", "0.01")
    assert done.returncode == 2
    assert "error: version 2 is not promoted over champion 1: waves, scale group x1-2" in done.stderr
    assert "Traceback" not in done.stderr
    listed = run(uri, "list")
    assert listed.returncode == 0, listed.stderr
    for word in ("champion", "d" * 12, "x2 31.00", "anysr at sqlite"):
        assert word in listed.stdout
    missing = run(uri, "promote", "9")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "models:/anysr/9 does not exist" in missing.stderr


def test_two_promotions_at_once_leave_one_champion(uri, suite):
    """Both are no worse than the champion, but the second to come is compared with the first."""
    client = MlflowClient(uri)
    client.set_registered_model_alias("anysr", "champion", "2")
    before = len(history(open_registry("anysr", uri)))
    processes = [
        subprocess.Popen(command(uri, "promote", number, "--suite", suite, "--margin", "0.01"), text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in ("1", "3")
    ]  # fmt: skip
    ended = [(process.communicate(timeout=120), process.returncode) for process in processes]
    champion = open_registry("anysr", uri).get("@champion")
    changes = history(open_registry("anysr", uri))[before:]
    assert champion.number in (1, 3), ended
    assert changes[-1].version == champion.number
    assert len(changes) == sum(code == 0 for _, code in ended)
    with pytest.raises(mlflow.exceptions.MlflowException):
        client.get_registered_model("anysr.promoting")


def test_a_champion_that_changed_meanwhile_is_compared_again(uri):
    """The comparison that let it pass was with another champion."""
    registry = open_registry("anysr", uri)
    registry.client.set_registered_model_alias("anysr", "champion", "2")
    seen = []

    def compared(old, new):
        seen.append(old.number)
        if len(seen) == 1:
            registry.client.set_registered_model_alias("anysr", "champion", "3")
        return compare(f"models:/anysr/{new.number}", f"models:/anysr/{new.number}", None, ["2"], uri, print)

    promote(registry, registry.find("1"), compared, 0.0, 0.0)
    assert seen == [2, 3]


def test_a_lock_left_behind_is_removed_and_a_lost_one_noticed(uri, monkeypatch):
    client = MlflowClient(uri)
    client.create_registered_model("anysr.promoting", tags={"anysr.owner": "killed"})
    monkeypatch.setattr("pipeline.registry.lock.STALE_S", -1.0)
    lock = Lock(client, "anysr")
    with lock.held():
        lock.check()
        client.set_registered_model_tag("anysr.promoting", "anysr.owner", "another")
        with pytest.raises(UserError, match="took over"):
            lock.check()
    client.delete_registered_model("anysr.promoting")


def test_versions_carry_what_they_were_made_of(uri):
    tags = open_registry("anysr", uri).find("1").tags
    assert tags["anysr.data"] == "d" * 64
    assert tags["anysr.config"].endswith("/config.yaml")
    assert tags["anysr.report"].endswith("/scores.json")
    assert len(tags[COMMIT_TAG].removesuffix("-dirty")) == 40 or tags[COMMIT_TAG] == "unknown"


def test_a_network_of_one_factor_enlarges_by_it_where_no_scale_is_given(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("x", artifact_location=(tmp_path / "artifacts").as_uri()))
    anysr.save(anysr.build("ecbsr-m4c16-x4"), tmp_path / "model.safetensors")
    version = register(tmp_path / "model.safetensors", 4, uri, run.info.run_id, "ecbsr", {})
    served = mlflow.pyfunc.load_model(f"models:/ecbsr/{version}")
    lr = np.zeros((1, 3, 5, 6), np.float32)
    assert served.predict(lr).shape == (1, 3, 20, 24)
    assert served.unwrap_python_model().predict(None, lr).shape == (1, 3, 20, 24)
