"""Stands before a real S3 server and makes it refuse, slow down, cut answers short, or be away."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class S3Proxy:
    """Forwards requests to ``target``.

    Attributes:
        refusing: answer with this status instead, such as 503.
        cut_bytes: close the connection after so many bytes of each answer.
        bytes_per_s: send answers no faster.
        knows_conditions: do as asked by If-Match and If-None-Match; otherwise such writes are refused with 501.
        counts: requests by method.
    """

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target).netloc
        self.refusing: int | None = None
        self.cut_bytes: int | None = None
        self.bytes_per_s: float | None = None
        self.knows_conditions = True
        self.counts: Counter[str] = Counter()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: S3Proxy

    def _forward(self) -> None:
        proxy = self.proxy
        proxy.counts[self.command] += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if proxy.refusing is not None:
            self._refuse(proxy.refusing)
            return
        conditional = self.command == "PUT" and ("If-Match" in self.headers or "If-None-Match" in self.headers)
        if conditional and not proxy.knows_conditions:
            self._refuse(501, b"<Error><Code>NotImplemented</Code><Message>A header is unknown</Message></Error>")
            return
        upstream = http.client.HTTPConnection(proxy.target, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            self._answer(answer, b"" if self.command == "HEAD" else answer.read())
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # as if nobody were there
        finally:
            upstream.close()

    def _refuse(self, status: int, content: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, answer: http.client.HTTPResponse, content: bytes) -> None:
        self.send_response(answer.status)
        length = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        for name, value in answer.headers.items():
            if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.proxy.cut_bytes is not None and len(content) > self.proxy.cut_bytes:
            content = content[: self.proxy.cut_bytes]
            self.close_connection = True
        rate = self.proxy.bytes_per_s
        step = len(content) or 1 if rate is None else max(1, int(rate / 20))
        for start in range(0, len(content), step):
            self.wfile.write(content[start : start + step])
            self.wfile.flush()
            if rate is not None:
                time.sleep(step / rate)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass
