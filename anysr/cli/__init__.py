"""The ``anysr`` command."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

import anysr

_COMMANDS = {
    "upscale": "enlarge photos by any factor, within a budget",
    "profile": "measure this device once, for --latency",
    "info": "what a model file holds and costs",
    "compare": "crops of two models side by side",
    "export": "write subnets for other runtimes: ONNX, torch.export",
    "convert": "write a released .pth checkpoint as a safe model file",
}
_EPILOG = """\
start with:
  anysr upscale photo.jpg --scale 2.37 -o large.jpg
  anysr upscale --help
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when done, 1 when some images failed, 2 when the request cannot be met.

    Reasons are one line on stderr; ANYSR_TRACEBACK=1 shows the whole trace of an unexpected one.
    """
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: PTH123, SIM115 - None where closed
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold anything
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except KeyboardInterrupt:
        print("anysr: interrupted; start it again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - what follows is flushed to nowhere
        return 1
    except (ModuleNotFoundError, MemoryError, OSError, ValueError) as error:
        print(f"anysr: {one_line(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        if os.environ.get("ANYSR_TRACEBACK") == "1":
            raise
        kind = type(error).__name__
        print(f"anysr: unexpected {kind}: {one_line(error)[:500]} (ANYSR_TRACEBACK=1 shows where)", file=sys.stderr)
        return 2


def one_line(error: BaseException) -> str:
    """An error's text on one line."""
    if isinstance(error, ModuleNotFoundError) and error.name in ("onnx_ir", "onnxruntime", "onnxscript"):
        return f"exporting needs {error.name}, which is not installed: pip install 'anysr[export]'"
    if isinstance(error, ModuleNotFoundError) and error.name in ("PIL", "tifffile", "imagecodecs"):
        return f"reading images needs {error.name}, which is not installed: pip install 'anysr[images]'"
    if isinstance(error, OSError) and error.strerror:
        where = f"{shown(error.filename)}: " if error.filename else ""
        return f"{where}{error.strerror.lower()}"
    return " ".join(str(error).split()) or type(error).__name__


def shown(path: object) -> str:
    """A path for people: on one line, and safe for a terminal, whatever is in its name."""
    text = os.fsdecode(path) if isinstance(path, bytes) else str(path)
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return safe.encode("utf-8", "backslashreplace").decode()


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="anysr",
        description=anysr.__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"anysr {anysr.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # Only the command that runs is imported: `anysr info` needs no image library.
    asked = next((a for a in arguments if not a.startswith("-")), None)
    for name, summary in _COMMANDS.items():
        module = importlib.import_module(f"anysr.cli.{name}") if name == asked else None
        sub = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__ if module else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if module is not None:
            module.add_arguments(sub)
    args = parser.parse_args(arguments)
    return int(importlib.import_module(f"anysr.cli.{args.command}").run(args))
