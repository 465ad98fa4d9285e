"""Answers that are heard although the request is still being sent."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PATIENCE_S, _QUIET_S = 20.0, 2.0  # in all, and without a byte
_TIMED_OUT = 504  # the request has had its time


def may_have_body(scope: Scope) -> bool:
    """Whether something may be sent with a request."""
    return scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS")


class HeardOut:
    """Takes in what is left of a body, and forgets it, before the answer goes out.

    A server that answers early closes the connection under a client that is still sending, and most
    clients then tell of a broken pipe instead of the answer, such as a refusal. Who falls silent is not
    waited for, nor is anybody whose time is over.

    Args:
        app: answers whenever it likes.
        max_bytes: of a body that is waited for; of a longer one the connection breaks.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not may_have_body(scope):
            await self.app(scope, receive, send)
            return
        heard, is_over = 0, False

        async def hear() -> Message:
            nonlocal heard, is_over
            message = await receive()
            heard += len(message.get("body", b""))
            is_over = is_over or not message.get("more_body", False)
            return message

        async def hear_out() -> None:
            while not is_over and heard <= self.max_bytes:
                await asyncio.wait_for(hear(), _QUIET_S)

        async def answer(message: Message) -> None:
            is_start = message["type"] == "http.response.start"
            if is_start and not is_over and message["status"] != _TIMED_OUT:
                with suppress(TimeoutError):
                    await asyncio.wait_for(hear_out(), _PATIENCE_S)
            await send(message)

        await self.app(scope, hear, answer)
