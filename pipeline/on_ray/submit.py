"""``ray job submit``, followed to its end; a job that is no longer followed is stopped."""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import psutil

from pipeline.config import TrainingConfig
from pipeline.errors import UserError, without_secrets
from pipeline.storage.places import Place, parse_place
from pipeline.storage.transfer import read_text
from pipeline.tracking.uri import local_database, stripped, uri_or_default
from pipeline.tracking.versions import COMMIT_VARIABLE, git_commit

REMOTE, REMOTE_HELP = "--remote", "RAY_ADDRESS is a tunnel's end on this machine"
_SENT = ("anysr", "pipeline", "jobs")
_STOP_S = "60"  # a stopped job saves a checkpoint first; Ray's own default is 3 s
_ASK = (
    "import sys; from ray.job_submission import JobSubmissionClient; "
    "job = JobSubmissionClient().get_job_info(sys.argv[1]); print(job.status.value, job.driver_exit_code)"
)
# What a remote cluster's job needs to know of this shell; credentials belong to the cluster.
_FORWARDED = ("MLFLOW_TRACKING_URI", "ANYSR_CACHE", "ANYSR_TRACEBACK")


def follow_job(
    root: Path,
    files: Mapping[str, Place | None],
    python: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    script: str = "jobs/train.py",
) -> int:
    """Submit a script with arguments, stream its log and return its exit code.

    Args:
        root: the repository, whose code is sent along.
        files: files to send along, here or on S3, by the option that names them: {"--config": path}.
        python: the interpreter on the cluster.
        arguments: passed to the script.
        environment: what the client needs beside this process's own variables to reach a cluster
            that ends with this process; empty for any other.
        script: path below the repository's root.

    Raises:
        UserError: an argument holds a password.
    """
    if secret := [text for text in arguments if without_secrets(text) != text]:
        raise UserError(
            f"{without_secrets(secret[0])} holds a password, and Ray would write it down with the job; set it in the "
            "environment of the cluster's nodes, and leave it out here"
        )
    with tempfile.TemporaryDirectory(prefix="anysr-job-") as stage:
        for name in _SENT:
            shutil.copytree(root / name, Path(stage) / name, ignore=shutil.ignore_patterns("__pycache__"))
        for option, file in files.items():
            if file is not None:
                name = f"{option.lstrip('-')}.yaml"
                (Path(stage) / name).write_text(read_text(file) or "")
                arguments = [option, name, *arguments]
        # The shell gives way to the script: its end is the end of the job, and nothing is orphaned.
        entrypoint = ["exec", python, script, *arguments]
        return _follow(stage, entrypoint, {**_authentication(), **os.environ, **environment}, own=bool(environment))


def in_ray_job() -> bool:
    """Whether this process is the driver of a submitted job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def jobs_address() -> str | None:
    """``RAY_ADDRESS`` where that takes jobs; None for a cluster to join, or none."""
    address = os.environ.get("RAY_ADDRESS", "")
    return address if address.startswith(("http://", "https://")) else None


def submit_command(root: Path, script: str, address: str) -> int:
    """Run this process's own command line as a job of the cluster at an address; answers its exit code.

    On this machine its paths mean what they mean here, unless ``--remote`` says that the address is a tunnel's end.
    The script understands ``--chdir``, see :func:`change_folder`.
    """
    exit_on_signals()
    given = [text for text in sys.argv[1:] if text != REMOTE]
    here = is_this_machine(address) and given == sys.argv[1:]
    arguments = [*given, *(["--chdir", str(Path.cwd())] if here else [])]
    return follow_job(root, {}, sys.executable if here else "python", arguments, {}, script)


def workers_argument(least: int) -> Callable[[str], int]:
    """What argparse reads ``--workers`` with: a whole number of ``least`` or more."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"the number of workers must be {least} or more, got {text!r}")
        return int(text)

    return parse


def change_folder(folder: Path | None) -> None:
    """Go to the folder that a job's paths are relative to.

    Raises:
        UserError: there is none.
    """
    if folder is not None:
        if not folder.is_dir():
            raise UserError(f"--chdir: there is no folder {folder}")
        os.chdir(folder)


def _authentication() -> dict[str, str]:
    """Ray's clusters ask for a token by default; its client sends one only when told to."""
    has_token = "RAY_AUTH_TOKEN" in os.environ or (Path.home() / ".ray" / "auth_token").exists()
    return {"RAY_AUTH_MODE": "token"} if has_token else {}


def _follow(working_dir: str, entrypoint: Sequence[str], client: Mapping[str, str], own: bool) -> int:
    job = f"anysr-{secrets.token_hex(4)}"
    forwarded = {name: os.environ[name] for name in _FORWARDED if name in os.environ}
    tracking = forwarded.get("MLFLOW_TRACKING_URI", "")
    if stripped(tracking) != tracking:
        if not own:
            raise UserError(
                "MLFLOW_TRACKING_URI holds a password, and Ray would write it down with the job; set it on the "
                "cluster's nodes, and unset it here"
            )
        del forwarded["MLFLOW_TRACKING_URI"]  # a cluster started here has it already
    forwarded |= {"PYTHONUNBUFFERED": "1", "RAY_JOB_STOP_WAIT_TIME_S": _STOP_S, COMMIT_VARIABLE: git_commit()}
    runtime = {"env_vars": forwarded}
    command = [*_ray("submit"), "--submission-id", job, "--working-dir", working_dir]
    command += ["--runtime-env-json", json.dumps(runtime), "--", *entrypoint]
    finished = False
    try:
        submitted = subprocess.run(command, env=client, check=False).returncode
        finished = True
        return _exit_code(job, client, submitted)
    finally:
        if not finished:
            print("stopping the job, which saves first; once more to end at once …", file=sys.stderr, flush=True)
            subprocess.run([*_ray("stop"), job], env=client, check=False, capture_output=True, timeout=90)


def _exit_code(job: str, client: Mapping[str, str], submitted: int) -> int:
    """The script's own: Ray's client answers 1 for any failure, and 0 for a job that somebody stopped."""
    asked = subprocess.run(
        [sys.executable, "-c", _ASK, job], env=client, check=False, capture_output=True, text=True, timeout=60
    )
    status, _, code = asked.stdout.strip().partition(" ")
    if status == "STOPPED":
        print("the job was stopped", file=sys.stderr, flush=True)
        return 128 + signal.SIGINT
    if status == "FAILED" and code.lstrip("-").isdecimal():
        return int(code) if int(code) > 0 else 128 - int(code)
    return submitted


def is_this_machine(address: str) -> bool:
    """Whether a Ray address, such as http://127.0.0.1:8265, names this machine, whose paths a job then shares."""
    host = urlsplit(address if "//" in address else f"//{address}").hostname
    own = {card.address for cards in psutil.net_if_addrs().values() for card in cards}
    return host in {"auto", "local", "localhost", socket.gethostname().lower(), *own}


def local_paths(config: TrainingConfig, own_cluster: bool = False) -> list[str]:
    """Overrides that name this folder's paths in full, as a job of this machine runs in a folder of its own.

    Where nothing names an MLflow server or database, this folder's is named for a cluster started here alone
    (``own_cluster``): the nodes of another one may have a server.
    """
    data, storage = config.data.resolved(), parse_place(config.run.storage)
    cache = data.cache or (Path(os.environ["ANYSR_CACHE"]).resolve() if "ANYSR_CACHE" in os.environ else None)
    paths = {"data.train": data.train, "data.validation": data.validation, "data.cache": cache}
    paths["train.init_from"] = config.train.resolved().init_from
    overrides = [f"{key}={json.dumps(str(path))}" for key, path in paths.items() if path is not None]
    if isinstance(storage, Path):
        overrides.append(f"run.storage={json.dumps(str(storage.expanduser().resolve()))}")
    named = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if (database := local_database(uri_or_default(named) if own_cluster else named)) is not None:
        overrides.append(f"tracking.uri={json.dumps(f'sqlite:///{database.resolve()}')}")
    return overrides


def exit_on_signals() -> None:
    """Let SIGTERM and SIGHUP unwind like Ctrl-C, so that what was started is ended."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    # A connection to a database that this interrupts would say so with a stack.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    raise SystemExit(128 + number)


def _ray(verb: str) -> list[str]:
    color = "auto" if sys.stdout.isatty() else "false"
    return [str(Path(sys.executable).with_name("ray")), "job", verb, f"--log-color={color}"]
