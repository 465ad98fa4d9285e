"""Who may come in, and with how much: the outermost layers of the application.

Plain ASGI, so that an answer that never ends, such as the page's stream of events, passes through.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import secrets
from pathlib import Path
from urllib.parse import parse_qs

from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.serving.endpoint import refused
from pipeline.serving.hearing import may_have_body
from pipeline.serving.limits import Gate
from pipeline.serving.requests import Refusal

UPLOAD_SUFFIX = "/upload"  # of the path that the page sends files to
_COOKIE, _LOGIN = "anysr_session", "/login"
_MAX_LOGIN_BYTES = 4096
_MULTIPART_BYTES = 4096  # what a form adds to the file in it
_UNAUTHORIZED, _LENGTH_REQUIRED, _TOO_LARGE, _SEE_OTHER = 401, 411, 413, 303


class BodyLimit:
    """Refuses bodies that are too long by their announced length, before any of it is read.

    Uploads of the page take a place at ``uploads``; the endpoint's requests have one of their own.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, uploads: Gate) -> None:
        self.app, self.max_bytes, self.uploads = app, max_bytes, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not may_have_body(scope):
            await self.app(scope, receive, send)
            return
        is_upload = scope["path"].endswith(UPLOAD_SUFFIX)
        headers = Request(scope).headers
        has_body = not {"content-length", "transfer-encoding"}.isdisjoint(headers)  # RFC 9112, 6.3
        refusal = self._refusal(headers.get("content-length"), is_upload) if has_body else None
        if refusal is not None:
            await refused(refusal)(scope, receive, send)
        elif is_upload:
            with self.uploads.place() as free:
                busy = refused(Refusal.busy("too many uploads at the same time"))
                await (self.app if free else busy)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, length: str | None, is_upload: bool) -> Refusal | None:
        if length is None or not length.isdecimal():
            return Refusal(_LENGTH_REQUIRED, "say how long the body is in a Content-Length header")
        if int(length) > self.max_bytes + _MULTIPART_BYTES * is_upload:
            sent, most = int(length) / 1e6, self.max_bytes / 1e6
            return Refusal(_TOO_LARGE, f"the file has {sent:.3g} MB; at most {most:g} MB are allowed")
        return None


class TokenRequired:
    """Lets in whoever shows the token: programs in a header, people once in a form, for a cookie.

    Args:
        app: what is protected.
        token_sha256: the token itself need not be known here.
    """

    def __init__(self, app: ASGIApp, token_sha256: str) -> None:
        self.app, self._token_sha256 = app, token_sha256
        self._session = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if self._is_known(HTTPConnection(scope)):
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await (await self._at_the_door(Request(scope, receive)))(scope, receive, send)

    def _is_known(self, visitor: HTTPConnection) -> bool:
        scheme, _, token = visitor.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(token.strip()):
            return True
        session = visitor.cookies.get(_COOKIE, "")
        return hmac.compare_digest(session.encode(), self._session.encode())

    def _is_token(self, token: str) -> bool:
        return hmac.compare_digest(sha256_of_text(token), self._token_sha256)

    async def _at_the_door(self, request: Request) -> Response:
        if request.method == "POST" and request.url.path.endswith(_LOGIN):
            return await self._log_in(request)
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return _login_page(request, "")
        answer = refused(Refusal(_UNAUTHORIZED, "send the service's token: Authorization: Bearer …"))
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    async def _log_in(self, request: Request) -> Response:
        form = b""
        async for part in request.stream():  # an announced length may be missing, or wrong
            form += part
            if len(form) > _MAX_LOGIN_BYTES:
                return refused(Refusal(_TOO_LARGE, "a token is shorter"))
        given = parse_qs(form.decode("utf-8", "replace")).get("token", [""])[0]
        if not self._is_token(given.strip()):
            return _login_page(request, "That is not the token.")
        answer = RedirectResponse(f"{request.scope.get('root_path', '')}/", _SEE_OTHER)
        secure = request.url.scheme == "https"
        answer.set_cookie(_COOKIE, self._session, httponly=True, samesite="strict", secure=secure)
        return answer


def sha256_of_text(text: str) -> str:
    """In hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _login_page(request: Request, problem: str) -> Response:
    page = (Path(__file__).parent / "page" / "login.html").read_text()
    action = f"{request.scope.get('root_path', '')}{_LOGIN}"
    filled = page.replace("{{action}}", html.escape(action)).replace("{{problem}}", html.escape(problem))
    return HTMLResponse(filled, _UNAUTHORIZED, {"Cache-Control": "no-store"})
