"""Submit jobs/train.py to Ray and follow it: to the cluster at RAY_ADDRESS, else to one started here.

A cluster started here listens on loopback only and is gone when this command ends, however it ends.

Examples:
    python jobs/submit.py --config jobs/configs/photos.yaml
    RAY_ADDRESS=http://head:8265 python jobs/submit.py --config jobs/configs/photos.yaml run.storage=/shared/runs
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.config_file import load_config
from pipeline.errors import run_command
from pipeline.on_ray.cluster import LocalCluster
from pipeline.on_ray.submit import REMOTE, REMOTE_HELP, exit_on_signals, follow_job, is_this_machine, local_paths
from pipeline.storage.places import parse_place


def main() -> int:
    """Check the configuration, then submit it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="overrides the configuration")
    parser.add_argument("--config", type=parse_place, help="YAML file or s3://bucket/key")
    parser.add_argument(REMOTE, action="store_true", help=REMOTE_HELP)
    args = parser.parse_args()
    config, files = load_config(args.config, args.overrides), {"--config": args.config}
    exit_on_signals()
    address = os.environ.get("RAY_ADDRESS")
    if address and (args.remote or not is_this_machine(address)):
        return follow_job(ROOT, files, "python", args.overrides, {})
    overrides = [*args.overrides, *local_paths(config, own_cluster=not address)]
    if address:
        return follow_job(ROOT, files, sys.executable, overrides, {})
    print("starting a local Ray cluster …", flush=True)
    with LocalCluster() as cluster:
        return follow_job(ROOT, files, sys.executable, overrides, cluster.environment)


if __name__ == "__main__":
    sys.exit(run_command(main))
