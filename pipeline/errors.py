"""Errors that are the user's to mend: shown as one line, without a trace."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable

_SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "RAY_AUTH_TOKEN",
)
SECRET_QUERY_KEYS = ("password", "passwd", "sslpassword", "token")
_PASSWORD_IN_QUERY = re.compile(rf"(?i)(?<=[?&])({'|'.join(SECRET_QUERY_KEYS)})=[^&\s'\"]*")
_PASSWORD_IN_URI = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]*(?=@)")


class UserError(Exception):
    """Says what is wrong, what was given, what is allowed and how to mend it."""


class FatalError(UserError):
    """The same on every worker and after every restart: training again from a checkpoint cannot mend it."""


def run_command(main: Callable[[], int]) -> int:
    """Run a command line's main function; errors become one line on stderr and exit code 2.

    Set ANYSR_TRACEBACK=1 to see the whole trace.
    """
    if os.environ.get("ANYSR_TRACEBACK") == "1":
        return main()
    try:
        return main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (UserError, ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        kind, text = type(error).__name__, one_line(error)[:500]
        print(f"error: unexpected {kind}: {text} (ANYSR_TRACEBACK=1 shows where)", file=sys.stderr)
        return 1


def one_line(error: BaseException) -> str:
    """An error's text on one line, without the secrets of the environment."""
    return without_secrets(" ".join(str(error).split())) or type(error).__name__


def without_secrets(text: str) -> str:
    """The text with passwords in URIs, and secrets that the environment holds, left out."""
    for name in _SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, f"${name}")
    return _PASSWORD_IN_URI.sub("***", _PASSWORD_IN_QUERY.sub(r"\1=***", text))
