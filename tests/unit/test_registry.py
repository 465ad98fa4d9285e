import math
import sys
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from jobs import register
from pipeline.errors import UserError, run_command
from pipeline.evaluation.rows import Row
from pipeline.registry.compare import _means
from pipeline.registry.decision import Comparison, Difference, objections, scales_inside, shared_groups
from pipeline.registry.promotion import Change, champions
from pipeline.registry.resolve import resolve_model

LOW, HIGH = (1.0, 2.0), (2.0, 4.0)


def comparison(gains, macs=(1e9, 1e9)):
    found = [
        Difference(suite, group, scale, 30.0, 30.0 + gain)
        for (suite, group, scale), gain in gains.items()
    ]  # fmt: skip
    return Comparison(tuple(found), *macs, "liif")


EQUAL = {("Set5", LOW, "1.5"): 0.0, ("Set5", HIGH, "2.5"): 0.0, ("Set5", HIGH, "3.5"): 0.0, ("Set14", LOW, "1.5"): 0.0}


def test_a_network_that_is_no_worse_and_no_dearer_has_no_objection():
    assert objections(comparison(EQUAL), 0.0) == []
    assert objections(comparison({**EQUAL, ("Set5", HIGH, "2.5"): -0.05}), 0.05) == []


def test_worse_at_one_scale_of_one_group_of_one_suite_is_refused_and_named():
    gains = dict.fromkeys(EQUAL, 1.0) | {("Set14", LOW, "1.5"): -0.06}
    (reason,) = objections(comparison(gains), 0.05)
    assert reason == "Set14, scale group x1-2: -0.060 dB at x1.5 (30.000 -> 29.940 dB, margin 0.05 dB)"


def test_a_gain_elsewhere_in_the_group_does_not_make_up_for_a_loss():
    gains = {**EQUAL, ("Set5", HIGH, "2.5"): 3.0, ("Set5", HIGH, "3.5"): -0.1}
    (reason,) = objections(comparison(gains), 0.05)
    assert "x3.5" in reason
    assert "x2-4" in reason


def test_every_group_that_is_worse_is_named_once_by_its_worst_scale():
    gains = {**EQUAL, ("Set5", HIGH, "2.5"): -0.2, ("Set5", HIGH, "3.5"): -0.3, ("Set5", LOW, "1.5"): -0.1}
    reasons = objections(comparison(gains), 0.05)
    assert len(reasons) == 2
    assert "-0.300 dB at x3.5" in "; ".join(reasons)


def test_a_dearer_network_is_refused_unless_the_margin_allows_it():
    (reason,) = objections(comparison(EQUAL, (1e9, 1.01e9)), 0.05)
    assert "1.01 G" in reason
    assert objections(comparison(EQUAL, (1e9, 1.01e9)), 0.05, cost_margin=0.02) == []
    assert objections(comparison(EQUAL, (1e9, 0.5e9)), 0.05) == []


def test_what_is_no_number_is_never_good_enough():
    (reason,) = objections(comparison({**EQUAL, ("Set5", HIGH, "2.5"): math.nan}), 0.05)
    assert "nan" in reason
    assert objections(comparison(EQUAL, (1e9, math.nan)), 0.05, cost_margin=1)


@pytest.mark.parametrize(
    ("psnrs", "mean"), [((169.0, 30.0), 75.0), ((math.inf, 30.0), 75.0), ((math.nan, 30.0), None), ((None,), None)]
)
def test_an_exact_image_counts_up_to_120_db_and_no_score_is_named(psnrs, mean):
    rows = [
        Row("d", "Set5", f"{i}.png", "i", 1, 1, "pil", "liif", "auto", "psnr", "old", "any-scale", "liif", 1, 1, psnr)
        for i, psnr in enumerate(psnrs)
    ]
    if mean is not None:
        assert list(_means(rows).values()) == [mean]
        return
    with pytest.raises(UserError, match=r"Set5 0.png at x1: the old network scores (nan|None) dB"):
        _means(rows)


def test_a_network_of_one_factor_does_not_replace_one_of_many():
    (reason,) = objections(replace(comparison(EQUAL), only_factor=2), 1.0)
    assert "x2 alone" in reason


def test_groups_of_two_networks_are_cut_at_the_edges_of_both():
    assert shared_groups([1, 1.75, 4], [1, 2.5, 4]) == [(1, 1.75), (1.75, 2.5), (2.5, 4)]
    assert shared_groups([1, 4], [1, 4]) == [(1, 4)]
    assert shared_groups([1, 2, 4], [1, 2, 8]) == [(1, 2), (2, 4), (4, 8)]
    inside = scales_inside((1.0, 1.75))
    assert len(inside) == 3
    assert all(1 < scale < 1.75 for scale in inside)


@pytest.mark.parametrize(
    ("actions", "present", "expected"),
    [
        ([], None, []),
        ([], 4, [4]),
        ([("promote", 1), ("promote", 3)], 3, [1, 3]),
        ([("promote", 1), ("promote", 3), ("rollback", 1)], 1, [1]),
        ([("promote", 1), ("promote", 3), ("promote", 5), ("rollback", 3), ("rollback", 1)], 1, [1]),
        ([("promote", 1), ("promote", 3), ("rollback", 1), ("promote", 4)], 4, [1, 4]),
        ([("promote", 1), ("promote", 3)], 7, [1, 3, 7]),  # moved by hand
    ],
)
def test_rolling_back_leads_through_the_champions_before(actions, present, expected):
    assert champions([Change(action, version, 0, "me") for action, version in actions], present) == expected


@pytest.mark.parametrize(
    "uri", ["models:/anysr", "models:/anysr/x", "models:/@champion", "models:/a/b/1", "models:/a@"]
)
def test_uris_that_name_no_version_are_refused(uri):
    with pytest.raises(UserError, match="models:/NAME@ALIAS"):
        resolve_model(uri)


def test_a_path_is_a_model_uri_and_a_missing_database_is_not_made(tmp_path, monkeypatch):
    (tmp_path / "m.safetensors").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert resolve_model("m.safetensors").name == "m.safetensors"
    with pytest.raises(UserError, match="no MLflow database"):
        resolve_model("models:/anysr/1")
    assert not (tmp_path / "mlflow.db").exists()


def register_py(monkeypatch, capsys, *arguments):
    """What jobs/register.py says to a command that it cannot do."""
    monkeypatch.setattr(sys, "argv", ["register.py", *arguments])
    assert run_command(register.main) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("command", ["list", "rollback", "promote 1", "export champion x"])
def test_a_registry_that_cannot_be_used_is_one_line(monkeypatch, capsys, tmp_path, command):
    (tmp_path / "no.db").write_text("This is no database. " * 100)
    for uri, mend in {"http://127.0.0.1:9": "start the server", f"sqlite:///{tmp_path}/no.db": "the database"}.items():
        line = register_py(monkeypatch, capsys, *command.split(), "--tracking-uri", uri)
        assert line.startswith(f"error: the registry at {uri} cannot be used")
        assert mend in line


@pytest.mark.parametrize("option", ["--margin", "--cost-margin"])
@pytest.mark.parametrize("text", ["inf", "nan", "much"])
def test_margins_are_finite_numbers(monkeypatch, capsys, option, text):
    monkeypatch.setattr(sys, "argv", ["register.py", "promote", "1", option, text])
    with pytest.raises(SystemExit):
        register.main()
    said = capsys.readouterr().err
    assert f"argument {option}: must be a finite number, such as 0.02, got '{text}'" in said


@pytest.mark.parametrize("text", ["", ".", "/"])
def test_a_model_is_exported_into_a_file(monkeypatch, capsys, text):
    monkeypatch.setattr(sys, "argv", ["register.py", "export", "1", text])
    with pytest.raises(SystemExit):
        register.main()
    assert f"must name the file to write, such as model.safetensors, got '{text}'" in capsys.readouterr().err


def test_models_that_are_not_there_or_empty_are_told(monkeypatch, capsys):
    client = MagicMock()
    client.search_model_versions.return_value = []
    client.search_registered_models.return_value = [SimpleNamespace(name=name) for name in ("anysr", "anysr.promoting")]
    monkeypatch.setattr("pipeline.registry.versions.MlflowClient", lambda uri: client)
    uri = ("--tracking-uri", "http://host:5000")
    assert "has no version; train one" in register_py(monkeypatch, capsys, "list", *uri)
    client.get_registered_model.side_effect = MlflowException("no such model", RESOURCE_DOES_NOT_EXIST)
    client.get_model_version_by_alias.side_effect = client.get_registered_model.side_effect
    for command in ("list", "rollback"):
        line = register_py(monkeypatch, capsys, command, *uri)
        assert "no such model at http://host:5000; models there: anysr, or" in line
