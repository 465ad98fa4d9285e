"""Whether anybody listens at an address: asked before a client that would try for minutes, and not say so."""

from __future__ import annotations

import socket

_WAIT_S = 5.0


def check_listening(host: str, port: int) -> None:
    """Return if something listens there.

    Raises:
        ConnectionError: nothing does, or it did not answer within five seconds.
    """
    try:
        socket.create_connection((host, port), _WAIT_S).close()
    except OSError as error:
        raise ConnectionError(f"nothing listens at {host}, port {port}: {error.strerror or error}") from None
