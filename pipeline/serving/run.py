"""A service from start to Ctrl-C, as its command sees it."""

from __future__ import annotations

import ipaddress
import logging
import math
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anysr.cli.models import OpenedModel, open_model
from pipeline.errors import UserError, one_line
from pipeline.on_ray.connect import connected
from pipeline.serving.access import sha256_of_text
from pipeline.serving.endpoint import PATH
from pipeline.serving.limits import ServiceLimits
from pipeline.serving.page.facts import facts_of

TOKEN_VARIABLE = "ANYSR_SERVE_TOKEN"
_MIN_TOKEN = 16


@dataclass(frozen=True)
class Options:
    """What the command was asked for.

    Attributes:
        model: as for ``anysr upscale --model``; None is the default there.
        host: address to listen on.
        port: 0 takes a free one.
        replicas: images worked on at the same time.
        cpus: of each replica; None shares this machine's among them.
        use_gpu: one GPU for each replica.
        limits: of each request.
    """

    model: str | None
    host: str
    port: int
    replicas: int
    cpus: float | None
    use_gpu: bool
    limits: ServiceLimits

    @property
    def device(self) -> str:
        """Of torch."""
        return "cuda" if self.use_gpu else "cpu"

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise UserError(f"--replicas must be at least 1, got {self.replicas}")
        if not 0 <= self.port < 2**16:
            raise UserError(f"--port must be from 0 to 65535, got {self.port}")
        if self.cpus is not None and not self.cpus > 0:
            raise UserError(f"--cpus must be positive, got {self.cpus:g}")


def serve_until_stopped(options: Options) -> None:
    """Check everything, start everything, say where, and wait for Ctrl-C or SIGTERM.

    Raises:
        UserError: something that was asked for cannot be; nothing is left running.
    """
    token = required_token(options.host)
    opened = open_model(options.model)
    port = _free_port(options.host, options.port)
    joins = bool(os.environ.get("RAY_ADDRESS"))
    cpus = options.cpus or (1.0 if joins else max(1.0, (os.cpu_count() or 1) // options.replicas))
    print(f"starting {options.replicas} × {opened.path.stem} on Ray Serve …", flush=True)
    with connected(None if joins else math.ceil(cpus * options.replicas)), _temporary_folder(joins) as folder:
        import ray
        from ray import serve

        from pipeline.serving.application import Settings
        from pipeline.serving.deployment import deploy

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        _check_resources(ray.cluster_resources(), options, cpus)
        if joins and serve.status().applications:
            raise UserError("Ray Serve already runs applications on this cluster, on its own port; see docs/serving.md")
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": options.host, "port": port},
            logging_config={"enable_access_log": False, "log_level": "WARNING"},
        )
        try:
            settings = Settings(
                options.limits,
                options.replicas,
                facts_of(opened.model, opened.path.stem),
                None if token is None else sha256_of_text(token),
            )
            resources = {"num_cpus": cpus, "num_gpus": 1.0 if options.use_gpu else 0.0}
            environment = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", **folder}
            deploy(settings, _portable(options.model, opened), options.device, resources, environment)
            print(_where(options, port, token is not None), flush=True)
            while True:
                signal.pause()
        except RuntimeError as error:
            raise UserError(f"the service does not start: {one_line(error)[-500:]}") from None
        finally:
            if joins:  # a cluster of ours takes it along
                serve.shutdown()


def required_token(host: str) -> str | None:
    """The token that visitors must show; None where only this machine can visit and none is set.

    Raises:
        UserError: it is missing, too short, or ``host`` is no address.
    """
    token = os.environ.get(TOKEN_VARIABLE, "")
    if token and len(token) < _MIN_TOKEN:
        raise UserError(f"{TOKEN_VARIABLE} must have at least {_MIN_TOKEN} characters, got {len(token)}")
    if not token and not _is_loopback(host):
        raise UserError(
            f"--host {host} lets other machines in, so they must show a token: set {TOKEN_VARIABLE}, such as by "
            f"export {TOKEN_VARIABLE}=$(openssl rand -hex 32)"
        )
    return token or None


def _portable(asked: str | None, opened: OpenedModel) -> str:
    """The model by what means the same in another folder and, where it can, on another machine."""
    if asked is None or Path(asked).expanduser().is_file():
        return str(opened.path.resolve())
    return asked


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise UserError(f"--host must be an IP address or localhost, got {host!r}") from None


def _free_port(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"cannot listen on {host} port {port}: {reason}; choose another --port, or 0") from None
        return int(probe.getsockname()[1])


@contextmanager
def _temporary_folder(joins: bool) -> Iterator[dict[str, str]]:
    """Where the page's files lie on this machine, gone afterwards; on a cluster, in its nodes' own."""
    if joins:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="anysr-page-", ignore_cleanup_errors=True) as folder:
        yield {"GRADIO_TEMP_DIR": folder}


def _check_resources(cluster: dict[str, float], options: Options, cpus: float) -> None:
    """Serve would wait for ever."""
    has_cpus, has_gpus = cluster.get("CPU", 0), cluster.get("GPU", 0)
    if cpus * options.replicas > has_cpus:
        raise UserError(
            f"{options.replicas} replicas of {cpus:g} CPUs do not fit the cluster's {has_cpus:g}; lower --replicas or "
            "--cpus"
        )
    if options.use_gpu and options.replicas > has_gpus:
        raise UserError(f"{options.replicas} replicas want a GPU each, the cluster has {has_gpus:g}; lower --replicas")


def _where(options: Options, port: int, has_token: bool) -> str:
    host = f"[{options.host}]" if ":" in options.host else options.host
    token = f", for those who show ${TOKEN_VARIABLE}" if has_token else ""
    return f"page: http://{host}:{port}/   endpoint: POST http://{host}:{port}{PATH}{token}   Ctrl-C ends it"
