"""Ray Serve as a thin layer: enlargers as replicas, and one replica of the application in front of them.

The application has one replica because the page's state lies in its process; it only passes work on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ray import serve
from starlette.types import ASGIApp

from pipeline.serving.application import Settings, build_application
from pipeline.serving.limits import ServiceLimits
from pipeline.serving.requests import Answer, Job, Refusal
from pipeline.serving.worker import Worker

APP = "anysr"
_MANY = 10_000  # open pages keep a request each; the application counts what costs something
_GRACE_S = 5.0


class Enlarger:
    """One image at a time, in a process that can be stopped."""

    def __init__(self, model: str, device: str, limits: ServiceLimits) -> None:
        self._worker = Worker(model, device, limits)
        self._worker.await_ready()

    async def enlarge(self, job: Job) -> Answer | Refusal:
        """The answer; a caller that waits no longer ends the work, too."""
        try:
            return await asyncio.to_thread(self._worker.enlarge, job)
        except asyncio.CancelledError:
            self._worker.stop()
            raise

    def __del__(self) -> None:
        if hasattr(self, "_worker"):
            self._worker.stop()


def deploy(
    settings: Settings, model: str, device: str, resources: Mapping[str, float], environment: Mapping[str, str]
) -> None:
    """Start everything on the connected cluster, whose Serve listens already, and wait until it answers.

    Args:
        settings: of the application.
        model: as for ``anysr upscale --model``, found on each replica's node.
        device: of torch.
        resources: num_cpus and num_gpus of each enlarger.
        environment: variables of all replicas.
    """
    name = Enlarger.__name__

    def application() -> ASGIApp:
        handle = serve.get_deployment_handle(name, APP)

        async def enlarge(job: Job) -> Answer | Refusal:
            answer: Answer | Refusal = await handle.enlarge.remote(job)
            return answer

        return build_application(settings, enlarge)

    variables: dict[str, Any] = {"runtime_env": {"env_vars": dict(environment)}}
    enlargers = serve.deployment(
        name=name,
        num_replicas=settings.replicas,
        max_ongoing_requests=1,
        graceful_shutdown_timeout_s=_GRACE_S,
        ray_actor_options={**resources, **variables},
    )(Enlarger).bind(model, device, settings.limits)
    front = serve.deployment(
        name="Application",
        max_ongoing_requests=_MANY,
        graceful_shutdown_timeout_s=_GRACE_S,
        ray_actor_options={"num_cpus": 0, **variables},
    )(serve.ingress(application)())
    serve.run(front.bind(enlargers), name=APP, route_prefix="/")
