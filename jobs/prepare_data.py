"""Fetch data sets from their official places, check and unpack them, and decode those to train on.

    ROOT/DIV2K/train/HR   ROOT/DIV2K/valid/HR   ROOT/Set5/HR   ROOT/Set5/LR_bicubic/X2   ROOT/Manga109/HR   ...

Interrupted in any way, it goes on where it stopped; what is ready is left alone. An archive that you put into
ROOT/downloads yourself is taken from there, once its digest is right.

Examples:
    python jobs/prepare_data.py --list
    python jobs/prepare_data.py --root ~/data --only Set5 DIV2K
    python jobs/prepare_data.py --root ~/data --only DIV2K_valid_LR_X2 --mirror http://nas.local/archives
    python jobs/prepare_data.py --root ~/data --only benchmarks --manga109 ~/Manga109
    python jobs/prepare_data.py --prune-cache 30
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.data.datasets import BY_DEFAULT, chosen
from pipeline.data.photo_cache import cache_folder, prune
from pipeline.data.prepare import Preparation, prepare, take_manga109
from pipeline.data.prepare_report import print_datasets, print_ready
from pipeline.errors import run_command
from pipeline.storage.places import path_here


def main() -> int:
    """Parse, prepare, tell where things are."""
    args = _parser().parse_args()
    root, cache = args.root.expanduser().resolve(), args.cache and args.cache.expanduser().resolve()
    if args.prune_cache is not None:
        pruned = prune(cache_folder(cache), args.prune_cache)
        print(
            f"removed {pruned.entries} sets of decoded photos, {pruned.num_bytes / 1e6:,.0f} MB; {pruned.kept} are left"
        )
        return 0
    if args.list:
        print_datasets(root)
        return 0
    only_manga = args.manga109 is not None and args.only is None
    datasets = chosen(() if only_manga else args.only or BY_DEFAULT)
    how = Preparation(
        root,
        cache,
        args.mirror or os.environ.get("ANYSR_DATA_MIRROR") or None,
        verified=not args.unverified,
        keep_archives=args.keep_archives,
        decode=not args.no_decode,
    )
    if args.manga109 is not None:
        take_manga109(args.manga109, how)
    prepare(datasets, how)
    print_ready(datasets, root, args.manga109 is not None)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--root", type=path_here, default=Path("data"), help="folder of all data sets (default: data)")
    add("--only", nargs="+", metavar="NAME", help="some of those that --list shows, or DIV2K, or benchmarks")
    add("--list", action="store_true", help="show the data sets, their terms and what is here, and exit")
    add("--mirror", metavar="URL", help="a folder with the same archives, instead of the official places; "
        "else $ANYSR_DATA_MIRROR")  # fmt: skip
    add("--unverified", action="store_true", help="take archives whose digest is not the published one, and record it")
    add("--keep-archives", action="store_true", help="leave the archives in ROOT/downloads")
    add("--no-decode", action="store_true", help="leave decoding to the first training run")
    add("--cache", type=path_here, help="where decoded photos go; else $ANYSR_CACHE, else the user's cache folder")
    add("--manga109", type=path_here, metavar="FOLDER", help="your images of Manga109, which nobody may pass on")
    add("--prune-cache", type=float, nargs="?", const=30.0, metavar="DAYS",
        help="remove decoded photos that no run has opened for so many days (30), and exit")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
