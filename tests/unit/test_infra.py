"""Every file under infra/ against the published schema of what reads it, and none with a secret."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import ROOT

INFRA = ROOT / "infra"


def documents(path: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((INFRA / path).read_text()))


def filled(text: str) -> str:
    return text.replace("ACCOUNT", "123456789012").replace("BUCKET", "a-bucket").replace("REGISTRY", "registry.example")


@pytest.mark.parametrize("name", ["rayclusters", "rayjobs"])
def test_kuberay(shared, name):
    text = (shared / f"schemas/ray.io_{name}.yaml").read_text()
    schema = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = [one for one in schema["spec"]["versions"] if one["name"] == "v1"]
    closed = _closed(version["schema"]["openAPIV3Schema"])
    file = {"rayclusters": "raycluster.yaml", "rayjobs": "rayjob.yaml"}[name]
    (document,) = documents(f"kuberay/{file}")
    assert document["kind"] == schema["spec"]["names"]["kind"]
    validator = jsonschema.Draft202012Validator(closed)
    validator.validate(document)
    document["spec"]["misspelt"] = 1
    with pytest.raises(jsonschema.ValidationError, match="misspelt"):
        validator.validate(document)


def _closed(node: Any) -> Any:
    """The schema with unknown keys refused, and numbers as text allowed where Kubernetes allows them."""
    if isinstance(node, list):
        return [_closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {key: _closed(value) for key, value in node.items()}
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    if isinstance(made.get("properties"), dict) and made.get("type") == "object" and "metadata" not in node:
        made.setdefault("additionalProperties", bool(made.get("x-kubernetes-preserve-unknown-fields")))
    if isinstance(made.get("properties"), dict):
        metadata = made["properties"].get("metadata")
        if isinstance(metadata, dict):
            metadata.pop("additionalProperties", None)
    return made


def test_a_run_on_kubernetes_is_the_configuration_of_jobs_train():
    """Its overrides are valid, its cluster ends, and it is the cluster of raycluster.yaml."""
    from pipeline.config_file import load_config

    (job,), (cluster,) = documents("kuberay/rayjob.yaml"), documents("kuberay/raycluster.yaml")
    spec = job["spec"]
    assert spec["rayClusterSpec"] == cluster["spec"]
    assert spec["shutdownAfterJobFinishes"]
    assert spec["ttlSecondsAfterFinished"] < spec["activeDeadlineSeconds"]
    _, script, *arguments = shlex.split(filled(spec["entrypoint"]))
    assert (ROOT / script).is_file()
    config = load_config(ROOT / arguments[1], arguments[2:])
    groups = cluster["spec"]["workerGroupSpecs"]
    assert config.ray.most_workers <= sum(group["maxReplicas"] for group in groups)
    assert config.ray.cpus_per_worker <= int(
        groups[0]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
    )
    assert cluster["spec"]["rayVersion"] in (ROOT / "constraints.txt").read_text()


@pytest.mark.parametrize("file", ["kuberay/access.yaml", "mlflow/kubernetes.yaml"])
def test_kubernetes(file):
    import kubernetes_validate

    for document in documents(file):
        kubernetes_validate.validate(document, "1.34", strict=True)


def test_pods_are_valid_too():
    """KubeRay's schema holds only a part of what a pod may be."""
    import kubernetes_validate

    (cluster,) = documents("kuberay/raycluster.yaml")
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
        pod["metadata"] = {"name": "x", **pod["metadata"]}
        kubernetes_validate.validate(pod, "1.34", strict=True)
        (memory,) = [one["emptyDir"] for one in pod["spec"]["volumes"] if one["name"] == "shared-memory"]
        assert memory["medium"] == "Memory"


def test_cluster_launcher(monkeypatch):
    from botocore.session import get_session
    from botocore.validate import validate_parameters
    from ray.autoscaler._private.aws import config as aws
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(filled((INFRA / "aws/cluster.yaml").read_text()))
    schema = json.loads(files("ray.autoscaler").joinpath("ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    validate_config(prepare_config(config))
    shape = get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for node in config["available_node_types"].values():
        validate_parameters({"MinCount": 1, "MaxCount": 1, **node["node_config"]}, shape)
    # To a group of its own making Ray lets SSH in from everywhere; it leaves those of others alone.
    with monkeypatch.context() as patched:
        patched.setattr(aws, "_upsert_security_groups", lambda *_: pytest.fail("Ray makes a security group"))
        aws._configure_security_group(config)
    assert "security_group" not in config["provider"]
    for start in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in start[-1]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


@pytest.mark.parametrize("file", sorted(path.name for path in (INFRA / "aws").glob("*-policy.json")))
def test_iam_policies(file):
    """By a linter that knows every action, resource and condition key; stars stand where IAM takes nothing else."""
    from parliament import analyze_policy_string

    text = filled((INFRA / "aws" / file).read_text())
    # A start of instances needs its seven kinds of resources allowed, and here by two statements together.
    found = [f"{one.issue} {one.detail}" for one in analyze_policy_string(text).findings]
    assert [one for one in found if not (one.startswith("RESOURCE_MISMATCH") and "ec2:RunInstances" in one)] == []
    for statement in json.loads(text)["Statement"]:
        actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        assert not any("*" in action for action in actions)
        if statement["Resource"] == "*":
            assert all(re.match(r"ec2:Describe|ecr:GetAuthorizationToken", action) for action in actions)


def test_policies_belong_to_the_files():
    """The head may start just the types that the cluster has, and nodes read just the token that they ask for."""
    policy = json.loads((INFRA / "aws/head-policy.json").read_text())
    (start,) = [one for one in policy["Statement"] if one["Sid"] == "StartNodesOfTwoTypes"]
    cluster = yaml.safe_load((INFRA / "aws/cluster.yaml").read_text())
    types = {node["node_config"]["InstanceType"] for node in cluster["available_node_types"].values()}
    kinds = {"instance", "image", "key-pair", "network-interface", "security-group", "subnet", "volume"}
    allowed = [one["Resource"] for one in policy["Statement"] if one["Action"] == "ec2:RunInstances"]
    assert {arn.rpartition(":")[2] for arn in [allowed[0], *allowed[1]]} == {f"{kind}/*" for kind in kinds}
    assert types == set(start["Condition"]["StringEquals"]["ec2:InstanceType"])
    assert cluster["cluster_name"] == start["Condition"]["StringEquals"]["aws:RequestTag/ray-cluster-name"]
    assert "anysr/ray-token" in (INFRA / "aws/node-policy.json").read_text()


def test_compose():
    schema = json.loads(files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text())
    (document,) = documents("mlflow/compose.yaml")
    jsonschema.validate(document, schema)
    assert all(port.startswith("127.0.0.1:") for port in document["services"]["mlflow"]["ports"])
    assert "ports" not in document["services"]["postgres"]


def test_the_secrets_of_compose_are_neither_committed_nor_sent_with_a_job():
    """Where its own instructions make them, below the repository's root."""
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    (document,) = documents("mlflow/compose.yaml")
    secrets = [ROOT / one["file"] for one in document["secrets"].values()]
    assert any(excludes(secrets[0]) for excludes in get_excludes_from_ignore_files(ROOT, include_gitignore=True))


@pytest.mark.parametrize("file", ["image/Dockerfile", "mlflow/Dockerfile"])
def test_container_files(file):
    """Known instructions; what is copied exists; the last user is not root."""
    from dockerfile_parse import DockerfileParser
    from dockerfile_parse.constants import COMMENT_INSTRUCTION

    parser = DockerfileParser(path=str(INFRA / file), cache_content=True)
    steps = [step for step in parser.structure if step["instruction"] != COMMENT_INSTRUCTION]
    known = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "VOLUME", "EXPOSE", "ENTRYPOINT"}
    assert {step["instruction"] for step in steps} <= known
    for step in steps:
        if step["instruction"] == "COPY":
            *sources, _ = [word for word in step["value"].split() if not word.startswith("--")]
            assert all((ROOT / source).exists() for source in sources)
    users = [step["value"] for step in steps if step["instruction"] == "USER"]
    assert users[-1] not in ("root", "0")


@pytest.mark.parametrize("script", sorted(str(path.relative_to(INFRA)) for path in INFRA.rglob("*.sh")))
def test_scripts(script):
    subprocess.run(["bash", "-n", str(INFRA / script)], check=True)
    assert (INFRA / script).stat().st_mode & 0o111


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Programs that do nothing but write down their command lines, and a short folder."""
    body = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
case $0 in *initdb) mkdir -p "${1#--pgdata=}" ;; *postgres) exec sleep 60 ;; esac
"""
    for name in ("initdb", "postgres", "pg_isready", "createdb", "mlflow", "python"):
        (tmp_path / name).write_text(body.replace("$LOG", str(tmp_path / "log")))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in {"PG_BIN": str(tmp_path), "MLFLOW": str(tmp_path / "mlflow"), "PG_USER": "root"}.items():
        monkeypatch.setenv(name, value)
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.chdir(short)
        yield tmp_path / "log"


def served(folder: str, artifacts: str) -> str:
    command = [str(INFRA / "mlflow/serve_here.sh"), folder, artifacts]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60).stderr


def test_mlflow_here_takes_relative_folders(programs):
    served("server", "artifacts")
    assert f"--artifacts-destination={Path.cwd()}/artifacts" in programs.read_text()


def test_mlflow_here_leaves_another_server_of_its_folder_and_its_logs_alone(programs):
    logs = [Path("server/mlflow.log"), Path("server/postgres.log")]
    Path("server").mkdir()
    for log in logs:
        log.write_text("before\n")
    with Path("server/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "server is served already; end that server first" in served("server", "artifacts")
        assert not programs.exists()
    served("server", "artifacts")
    assert "mlflow server" in programs.read_text()
    assert [log.read_text().splitlines()[0] for log in logs] == ["before"] * 2


def test_mlflow_here_says_which_folders_cannot_be(programs, monkeypatch):
    assert "more than the 107 bytes" in served("x" * 90, "artifacts")
    if os.getuid() == 0:
        monkeypatch.setenv("PG_USER", "nobody")
        assert "error: the user 'nobody'" in served("server", "artifacts")
        assert not programs.exists()


def test_the_database_is_upgraded_without_its_password_on_a_command_line(programs, tmp_path, monkeypatch):
    (tmp_path / "password").write_text("hunter2")
    for name, value in {
        "PGPASSWORD_FILE": str(tmp_path / "password"),
        "ARTIFACTS": "x",
        "MLFLOW_UPGRADE": "yes",
    }.items():
        monkeypatch.setenv(name, value)
    subprocess.run([str(INFRA / "mlflow/entrypoint.sh")], check=True, timeout=60)
    upgrade, serve = programs.read_text().splitlines()
    assert "mlflow.db import upgrade" in upgrade
    assert serve.startswith("mlflow server")
    assert "hunter2" not in upgrade + serve


def test_mlflow_answers_to_the_names_that_clusters_have_for_it():
    (compose,), kubernetes = documents("mlflow/compose.yaml"), documents("mlflow/kubernetes.yaml")
    (pod,) = [one["spec"]["template"]["spec"] for one in kubernetes if one["kind"] == "Deployment"]
    (hosts,) = [one["value"] for one in pod["containers"][0]["env"] if one["name"] == "MLFLOW_ALLOWED_HOSTS"]
    allowed = compose["services"]["mlflow"]["environment"]["MLFLOW_ALLOWED_HOSTS"]
    for file, names in {"aws/cluster.yaml": allowed, "kuberay/raycluster.yaml": hosts}.items():
        (host,) = re.findall(r"(?:MLFLOW_TRACKING_URI\W.*)http://([\w.:]+)", (INFRA / file).read_text())
        assert host in re.split(r"[-,}]", names)


_SECRET = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN|(?i:password|secret|token)\w*\s*[:=]\s*[\"']?[A-Za-z0-9+]{16,}")


def test_no_secret_in_a_file():
    for path in INFRA.rglob("*"):
        if path.is_file():
            assert not _SECRET.search(path.read_text()), path
    assert _SECRET.search("MLFLOW_TRACKING_PASSWORD=abcdefgh12345678")


def test_every_file_is_checked():
    checked = Path(__file__).read_text()
    for path in INFRA.rglob("*"):
        if path.is_file() and path.suffix not in (".md", ".sh", ".dockerignore"):
            assert path.name in checked or path.name.endswith("-policy.json"), path
