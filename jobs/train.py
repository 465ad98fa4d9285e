"""Train a network: with Ray Train, or in this process with --local.

Examples:
    python jobs/train.py --local --config jobs/configs/photos.yaml
    python jobs/train.py --config jobs/configs/photos.yaml ray.num_workers=4 run.name=mine
    ray job submit --working-dir . -- python jobs/train.py run.storage=/shared/runs
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.config_file import json_schema, load_config
from pipeline.errors import run_command
from pipeline.run import run_training
from pipeline.storage.places import parse_place


def main() -> int:
    """Parse, load the configuration, train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="overrides the configuration")
    parser.add_argument(
        "--config", type=parse_place, help="YAML file or s3://bucket/key; what it leaves out keeps its default"
    )
    parser.add_argument("--local", action="store_true", help="train in this process, without Ray")
    parser.add_argument("--schema", action="store_true", help="print the configuration's JSON schema and exit")
    parser.add_argument("--show", action="store_true", help="print the resolved configuration and exit")
    args = parser.parse_args()
    if args.schema:
        print(json.dumps(json_schema(), indent=2))
        return 0
    config = load_config(args.config, args.overrides)
    if args.show:
        print(config.to_yaml(), end="")
        return 0
    if args.local:
        from pipeline.train.local import fit_locally as fit
    else:
        from pipeline.on_ray.train import fit_on_ray as fit
    return run_training(config, fit)


if __name__ == "__main__":
    sys.exit(run_command(main))
