"""Serve a page and an HTTP endpoint that enlarge photos, by Ray Serve on a cluster started here or at RAY_ADDRESS.

It listens on this machine alone. Any other address needs a token, which visitors must show, in the environment
variable ANYSR_SERVE_TOKEN.

Examples:
    python jobs/serve.py
    python jobs/serve.py --model runs/first/model.safetensors --port 8080 --replicas 2
    curl --data-binary @photo.jpg 'http://127.0.0.1:8000/upscale?scale=2.37&budget=50G' -o large.png
    ANYSR_SERVE_TOKEN=$(openssl rand -hex 32) python jobs/serve.py --host 0.0.0.0
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from anysr.cli.models import MODEL_HELP
from pipeline.errors import run_command
from pipeline.on_ray.submit import REMOTE, REMOTE_HELP, change_folder, exit_on_signals, jobs_address, submit_command
from pipeline.serving.limits import ServiceLimits
from pipeline.serving.run import Options, serve_until_stopped

_LIMITS = {
    "megabytes": "of an uploaded file",
    "megapixels_in": "of the image",
    "megapixels_out": "of its enlargement",
    "seconds": "from a request's arrival to its answer, waiting included",
    "waiting": "requests beside those in work; more are refused with 503",
}


def main() -> int:
    """Serve until Ctrl-C."""
    args = _parser().parse_args()
    limits = ServiceLimits(**{field.name: getattr(args, field.name) for field in fields(ServiceLimits)})
    options = Options(args.model, args.host, args.port, args.replicas, args.cpus, args.gpu, limits)
    if address := jobs_address():
        return submit_command(ROOT, "jobs/serve.py", address)
    change_folder(args.chdir)
    exit_on_signals()
    serve_until_stopped(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model", help=MODEL_HELP)
    add("--host", default="127.0.0.1", help="IP address to listen on (default: this machine alone)")
    add("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    add("--replicas", type=int, default=1, help="images worked on at the same time (default: 1)")
    add("--cpus", type=float, help="of each replica (default: this machine's shared among them; on a cluster 1)")
    add("--gpu", action="store_true", help="one GPU for each replica")
    add(REMOTE, action="store_true", help=REMOTE_HELP)
    add("--chdir", type=Path, help="folder that paths are relative to")
    limits = parser.add_argument_group("limits")
    for field in fields(ServiceLimits):
        flag, kind = f"--{field.name.replace('_', '-')}", type(field.default)
        help_text = f"{_LIMITS[field.name]} (default: {field.default:g})"
        limits.add_argument(flag, type=kind, default=field.default, help=help_text)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
