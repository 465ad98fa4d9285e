"""A web server that misbehaves as it is told."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What a server serves, how, and what it was asked.

    ``cut_after`` holds, for each of the next answers, after how many bytes the connection is dropped;
    ``statuses`` the status codes of the next answers, before any file is served.
    """

    files: dict[str, bytes]
    url: str = ""
    etag: str | None = '"1"'
    ranges: bool = True
    content_type: str = "application/octet-stream"
    says_length: bool = True
    statuses: list[int] = field(default_factory=list)
    retry_after: str | None = None
    cut_after: list[int] = field(default_factory=list)
    bytes_per_s: float = float("inf")
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Site]:
    site = Site(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            name = self.path.lstrip("/")
            site.requests.append((name, self.headers.get("Range")))
            if site.statuses:
                return self._refuse(site.statuses.pop(0))
            if name not in site.files:
                return self._refuse(404)
            content, start = site.files[name], self._start()
            if start >= len(content) > 0 and start:
                return self._refuse(416, f"bytes */{len(content)}")
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if site.says_length:
                self.send_header("Content-Length", str(len(content) - start))
            if site.etag:
                self.send_header("ETag", site.etag)
            self.send_header("Content-Type", site.content_type)
            self.send_header("Connection", "close")
            self.end_headers()
            return self._send(content[start:])

        def _start(self) -> int:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            version = self.headers.get("If-Range")
            return int(asked[1]) if asked and site.ranges and version in (None, site.etag) else 0

        def _send(self, content: bytes) -> None:
            self.close_connection = True
            content = content[: site.cut_after.pop(0)] if site.cut_after else content
            step = int(min(site.bytes_per_s / 20, 1 << 20)) if site.bytes_per_s < float("inf") else 1 << 20
            try:
                for at in range(0, len(content), step):
                    self.wfile.write(content[at : at + step])
                    if site.bytes_per_s < float("inf"):
                        time.sleep(0.05)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client is gone, which is what some tests are about

        def _refuse(self, status: int, content_range: str | None = None) -> None:
            self.send_response(status)
            if site.retry_after:
                self.send_header("Retry-After", site.retry_after)
            if content_range:
                self.send_header("Content-Range", content_range)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler
