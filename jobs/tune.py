r"""Search for scale groups, widths and intervals with Ray Tune, on a Ray cluster or on one started here.

The space is a YAML overlay on the training configuration in which values may be choices; jobs/configs/search.yaml
is one to read. A search of the same run.name goes on where it was stopped.

Examples:
    python jobs/tune.py --config jobs/configs/photos.yaml --space jobs/configs/search.yaml run.name=search
    python jobs/tune.py --config jobs/configs/photos.yaml --space jobs/configs/ablation.yaml search.trials=6
    RAY_ADDRESS=http://head:8265 python jobs/tune.py --config jobs/configs/photos.yaml \
        --space jobs/configs/search.yaml run.storage=/shared/runs
    ray job submit --working-dir . -- python jobs/tune.py --config jobs/configs/photos.yaml \
        --space jobs/configs/search.yaml run.storage=/shared/runs
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.errors import run_command
from pipeline.on_ray.connect import connected
from pipeline.on_ray.submit import (
    REMOTE,
    REMOTE_HELP,
    exit_on_signals,
    follow_job,
    is_this_machine,
    jobs_address,
    local_paths,
)
from pipeline.search.run import run_search
from pipeline.search.space import load_space
from pipeline.storage.places import parse_place


def main() -> int:
    """Check the space in all its corners, then search it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="overrides the space's file")
    parser.add_argument(
        "--config",
        type=parse_place,
        help="the training configuration that the space lies over, a YAML file or s3://bucket/key",
    )
    parser.add_argument("--space", type=parse_place, required=True, help="YAML file or s3://bucket/key")
    parser.add_argument(REMOTE, action="store_true", help=REMOTE_HELP)
    parser.add_argument("--check", action="store_true", help="check the space, print its choices and exit")
    args = parser.parse_args()
    space = load_space(args.space, args.config, args.overrides)
    if args.check:
        print("\n".join(f"{key}: {variable.in_words()}" for key, variable in space.variables.items()))
        return 0
    exit_on_signals()
    if address := jobs_address():
        here = is_this_machine(address) and not args.remote
        overrides = [*args.overrides, *(local_paths(space.reference()) if here else [])]
        files = {"--config": args.config, "--space": args.space}
        return follow_job(ROOT, files, sys.executable if here else "python", overrides, {}, "jobs/tune.py")
    with connected():
        from pipeline.on_ray.tune import search_on_ray

        return run_search(space, search_on_ray)


if __name__ == "__main__":
    sys.exit(run_command(main))
