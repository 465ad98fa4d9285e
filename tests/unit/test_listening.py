"""A server that is away is told of at once, before a client that would try for minutes is asked."""

import socket

import pytest
import ray

from pipeline.errors import UserError
from pipeline.listening import check_listening
from pipeline.on_ray.cluster import free_ports
from pipeline.on_ray.connect import connected, init_ray
from pipeline.registry.versions import open_registry
from pipeline.tracking import mlflow_run, uri
from tests.tiny import tiny_config


@pytest.fixture
def port():
    return free_ports(1)[0]


def test_what_listens_and_what_does_not(port):
    with socket.create_server(("127.0.0.1", port)):
        check_listening("127.0.0.1", port)
    with pytest.raises(ConnectionError, match=f"nothing listens at 127.0.0.1, port {port}: Connection refused"):
        check_listening("127.0.0.1", port)


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "localhost:{}"])
def test_a_ray_cluster_that_is_away(port, form, monkeypatch):
    monkeypatch.setattr(ray, "init", lambda *args, **options: pytest.fail("Ray was asked"))
    monkeypatch.setenv("RAY_ADDRESS", form.format(port))
    told = f"no Ray cluster answers at {form.format(port)} .nothing listens at .*, port {port}.*; correct RAY_ADDRESS"
    with pytest.raises(UserError, match=told):
        init_ray()
    with pytest.raises(UserError, match=told), connected():
        pytest.fail("there is none")


def test_a_database_server_that_is_away(port, monkeypatch):
    monkeypatch.setattr(mlflow_run, "MlflowClient", lambda uri: pytest.fail("MLflow was asked"))
    database = f"postgresql+psycopg2://me@127.0.0.1:{port}/mlflow"
    with pytest.raises(UserError, match=f"cannot be used .nothing listens at 127.0.0.1, port {port}"):
        mlflow_run.MlflowRun(database, tiny_config("run.name=r"))
    with pytest.raises(UserError, match=f"cannot be used .nothing listens at 127.0.0.1, port {port}"):
        open_registry("anysr", database)


@pytest.mark.parametrize(
    ("database", "asked"),
    [
        ("postgresql+psycopg2://me@db/x", ("db", 5432)),
        ("mysql+pymysql://me@[::1]:77/x", ("::1", 77)),
        ("mssql+pyodbc://db/x", ("db", 1433)),
        ("postgresql:///x?host=/run/postgresql", None),
        ("postgresql://one,two/x", None),
        ("postgresql://one:1,two:2/x", None),
        ("sqlite:////tmp/mlflow.db", None),
        ("http://server:5000", None),  # perhaps through a proxy, and quick to say so itself
    ],
)
def test_which_servers_are_asked(database, asked, monkeypatch):
    found = []
    monkeypatch.setattr(uri, "check_listening", lambda *address: found.append(address))
    uri.check_database(database)
    assert found == ([] if asked is None else [asked])
