"""What is written down and printed of a tracking server or database, by a client that connects to nothing."""

import json
import subprocess
from unittest.mock import MagicMock

import pytest

from pipeline.config_file import load_config
from pipeline.evaluation.environment import short_commit
from pipeline.registry.listing import print_versions
from pipeline.registry.versions import open_registry
from pipeline.run_folder import RunFolder
from pipeline.search.search import Search
from pipeline.search.space import load_space
from pipeline.tracking import mlflow_run, versions
from pipeline.tracking.evaluation_run import log_evaluation
from pipeline.tracking.mlflow_run import MlflowRun, MlflowSink, with_password, without_password

SECRET = "hunter%2F2"
DATABASE = f"postgresql+psycopg2://me:{SECRET}@db:5432/mlflow"


@pytest.fixture
def connected(monkeypatch):
    """The URIs that clients were made for."""
    uris = []

    def client(uri):
        uris.append(uri)
        made = MagicMock()
        made.search_runs.return_value = []
        made.create_run.return_value.info.run_id = "abc"
        made.get_registered_model.return_value = MagicMock(aliases={}, tags={})
        made.search_model_versions.return_value = [MagicMock(version=1, creation_timestamp=0, run_id=None, tags={})]
        return made

    for place in ("mlflow.MlflowClient", "pipeline.tracking.mlflow_run.MlflowClient"):
        monkeypatch.setattr(place, client)
    monkeypatch.setattr("pipeline.registry.versions.MlflowClient", client)
    monkeypatch.setattr(mlflow_run.mlflow, "set_tracking_uri", uris.append)
    monkeypatch.setattr("pipeline.tracking.uri.check_listening", lambda host, port: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DATABASE)
    return uris


@pytest.mark.parametrize(
    ("uri", "stripped"),
    [
        (DATABASE, "postgresql+psycopg2://me@db:5432/mlflow"),
        ("http://me:pw@host:5000/x", "http://host:5000/x"),
        ("sqlite:////a:b@c/mlflow.db", "sqlite:////a:b@c/mlflow.db"),
        ("http://host:5000", "http://host:5000"),
        ("postgresql://me@db/mlflow?a=1&password=pw", "postgresql://me@db/mlflow?a=1"),
        ("mysql://me:pw@db/mlflow?sslpassword=pw", "mysql://me@db/mlflow"),
    ],
)
def test_a_password_moves_to_the_environment(uri, stripped, monkeypatch):
    for name in ("URI", "USERNAME", "PASSWORD"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")
    assert without_password(uri) == stripped
    assert with_password(stripped) == (stripped if uri.startswith("http") else uri)


@pytest.mark.parametrize(
    ("uri", "storage", "location"),
    [
        ("postgresql://me@db/mlflow", "/runs", "file:///runs/mlartifacts"),
        ("mysql+pymysql://me@db/mlflow", "s3://bucket/runs", "s3://bucket/runs/mlartifacts"),
        ("sqlite:////there/mlflow.db", "s3://bucket/runs", "file:///there/mlartifacts"),
        ("http://server:5000", "/runs", None),
    ],
)
def test_artifacts_lie_where_they_outlive_a_job(uri, storage, location):
    run = MlflowRun.__new__(MlflowRun)
    run.uri, run._config = uri, load_config(None, [f"run.storage={storage}"])
    assert run._artifact_location() == location


def test_a_search_hands_no_password_to_ray_tune(connected, tmp_path):
    from pipeline.on_ray.tune import _Proposer

    (tmp_path / "space.yaml").write_text("train: {learning_rate: {choose: [1e-3, 1e-4]}}\n")
    space = load_space(tmp_path / "space.yaml", None, [f"run.storage={tmp_path}", "run.name=s"])
    folder = RunFolder(str(tmp_path), "s", None)
    folder.prepare(0)
    search = Search(space, space.reference(), folder, lambda config: MlflowRun(DATABASE, config))
    suggested = json.dumps(_Proposer(search).suggest("t"))
    assert "db:5432/mlflow" in suggested
    assert SECRET not in suggested + search._trackers[0].describe()
    MlflowSink(json.loads(json.loads(suggested)["assignment"])["sink"]["target"], "abc")
    assert {*connected} == {DATABASE}


def test_no_password_is_printed(connected, tmp_path, capsys):
    print_versions(open_registry("anysr"))
    print(log_evaluation(None, [], tmp_path, None))
    printed = capsys.readouterr().out
    assert printed.count("//me@db:5432") == 2
    assert SECRET not in printed
    assert {*connected} == {DATABASE}


def test_the_commit_is_that_of_this_code_alone(monkeypatch, tmp_path):
    """Not that of a repository which it lies in; and a job is told it."""
    identity = ("-c", "user.name=x", "-c", "user.email=x@x")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, *identity, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    (tmp_path / "anysr").mkdir()
    given = {"": "unknown", "v1-of-a-long-name": "v1-of-a-long-name", f"{'0a' * 20}-dirty": f"{'0a' * 6}-dirty"}
    monkeypatch.setattr(versions, "_ROOT", tmp_path / "anysr")
    for told, short in given.items():
        monkeypatch.setenv(versions.COMMIT_VARIABLE, told)
        versions.git_commit.cache_clear()
        assert short_commit() == short
    versions.git_commit.cache_clear()
