"""What endpoint and page share: a place for each request, a bound on its time, an enlarger to do it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from pipeline.errors import one_line
from pipeline.serving.limits import Gate, ServiceLimits
from pipeline.serving.requests import Answer, Job, Refusal
from pipeline.serving.worker import refused_for_time

_BUSY, _FAILED = 503, 500
_RETRY_AFTER_S = 5


class Service:
    """Enlargers behind a gate.

    Args:
        enlarge: hands a job to an idle enlarger; cancelled, it stops the job.
        limits: of each request.
        replicas: jobs that are worked on at the same time.
    """

    def __init__(
        self, enlarge: Callable[[Job], Awaitable[Answer | Refusal]], limits: ServiceLimits, replicas: int
    ) -> None:
        self._enlarge, self.limits = enlarge, limits
        self.gate = Gate(replicas + limits.waiting)

    async def run(self, prepare: Callable[[], Awaitable[Job]]) -> Answer | Refusal:
        """Do the job that ``prepare`` makes once there is a place; what it reads counts to the request's time."""
        with self.gate.place() as free:
            if not free:
                return Refusal(_BUSY, f"{self.gate.places} requests are in work or waiting; try again", _RETRY_AFTER_S)
            started = time.monotonic()
            try:
                async with asyncio.timeout(self.limits.seconds):
                    return await self._enlarge(await prepare())
            except TimeoutError:
                return refused_for_time(self.limits.seconds)
            except Exception as error:  # a replica or its node died, and Serve starts another one
                spent = time.monotonic() - started
                return Refusal(_FAILED, f"lost after {spent:.1f} s ({one_line(error)[:200]}); try again")
