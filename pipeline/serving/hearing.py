"""Answers that are heard although the request is still being sent."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PATIENCE_S = 20.0


class HeardOut:
    """Takes in what is left of a body, and forgets it, before the answer goes out.

    A server that answers early closes the connection under a client that is still sending, and most
    clients then tell of a broken pipe instead of the answer, such as a refusal.

    Args:
        app: answers whenever it likes.
        max_bytes: of a body that is waited for; of a longer one the connection breaks.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
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
                await hear()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and not is_over:
                with suppress(TimeoutError):
                    await asyncio.wait_for(hear_out(), _PATIENCE_S)
            await send(message)

        await self.app(scope, hear, answer)
