r"""Score models on suites of images: one row per image, suite, scale, subnet and metric.

Images are spread over workers on Ray: on the cluster at RAY_ADDRESS, else on one started here, which is gone
afterwards. Started again, a stopped evaluation goes on. Exit status: 0; 1 if an image could not be scored; 2
if the request cannot be met.

Examples:
    python jobs/evaluate.py --local --model bicubic --suite Set5=data/Set5 --scales 2 3 4
    python jobs/evaluate.py --workers 4 --model model.safetensors bicubic --original edsr-baseline-liif.pth \
        --suite data/Set5 --suite data/Set14 --sweep paper boundaries --subnets auto full --report report.html
    python jobs/evaluate.py --model models:/anysr@champion --suite B100=B100/HR,B100/LR/X{scale} --scales 2 2x3.1
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.errors import UserError, run_command
from pipeline.evaluation.costs import HR_SIZE, add_costs
from pipeline.evaluation.environment import note_environment
from pipeline.evaluation.perceptual import LpipsAlex, default_weights
from pipeline.evaluation.pictures import write_pictures
from pipeline.evaluation.plan import METRICS, Candidate, Evaluation
from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.evaluation.report.book import FIELD_SCALES, open_book
from pipeline.evaluation.report.page import write_report
from pipeline.evaluation.rows import OK, Row, RowStore, open_rows
from pipeline.evaluation.run import evaluate, in_this_process
from pipeline.evaluation.scales import BOUNDARIES, SWEEPS, Scale, named_sweeps, parse_scales
from pipeline.evaluation.suites import open_suite
from pipeline.evaluation.summary import print_summary
from pipeline.evaluation.upscalers import Network, open_upscaler
from pipeline.on_ray.submit import (
    REMOTE,
    REMOTE_HELP,
    change_folder,
    exit_on_signals,
    in_ray_job,
    jobs_address,
    submit_command,
    workers_argument,
)
from pipeline.storage.places import path_here
from pipeline.tracking.evaluation_run import log_evaluation


def main() -> int:
    """Parse, check everything that can be checked beforehand, score, print the means."""
    args = _parser().parse_args()
    here = args.local or args.workers == 0
    if not here and (address := jobs_address()):
        return submit_command(ROOT, "jobs/evaluate.py", address)
    change_folder(args.chdir)
    lost = [path for path in (args.out, args.report) if path is not None and not path.expanduser().is_absolute()]
    if in_ray_job() and args.chdir is None and lost:
        raise UserError(f"a Ray job would lose {lost[0]} with its working folder; give an absolute path of its node")
    if args.report:
        _check_writable(args.report.expanduser())
    evaluation = _evaluation(args)
    folder = args.out.expanduser()
    with open_rows(folder) as store:
        rows = _scored(evaluation, store, 0 if here else args.workers)
        print_summary(rows)
        print(f"rows: {store.file}", flush=True)
        note_environment(folder, sys.argv)
        if args.costs or args.report:
            measured = [scale for scale in evaluation.scales if scale in FIELD_SCALES]
            add_costs(evaluation, folder, measured or evaluation.scales[:1], args.cost_size, _say)
        if args.report:
            write_pictures(evaluation, rows, folder)
            write_report(open_book(folder, rows), args.report.expanduser())
            print(f"report: {args.report}")
        if args.track:
            print(log_evaluation(args.tracking_uri, rows, folder, args.report))
    return 0 if all(row.status == OK for row in rows) else 1


def _check_writable(report: Path) -> None:
    if report.is_dir():
        raise UserError(f"--report {report} is a folder; name a file in it, such as {report / 'report.html'}")
    folder = next(folder for folder in report.absolute().parents if folder.exists())
    if not folder.is_dir():
        raise UserError(f"--report {report} cannot be written: {folder} is not a folder; choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--report {report} cannot be written: {folder} is read-only; choose another place")


def _evaluation(args: argparse.Namespace) -> Evaluation:
    named = [*args.model, *(["bicubic"] if args.report and "bicubic" not in args.model else [])]
    subnets = args.subnets or (["auto", "full"] if args.report else ["auto"])
    opened = [(open_upscaler(text, args.lr, args.tracking_uri), subnets) for text in named]
    opened += [(open_upscaler(text, args.lr, args.tracking_uri), ["full"]) for text in args.original]
    candidates = tuple(Candidate(upscaler, upscaler.subnets(asked)) for upscaler, asked in opened)
    scales = _scales(args, candidates)
    return Evaluation(
        candidates,
        tuple(open_suite(text, scales, _say) for text in args.suite),
        scales,
        tuple(dict.fromkeys(args.metrics)),
        args.protocol,
        args.lr,
        LpipsAlex(args.lpips_weights) if "lpips" in args.metrics else None,
        FIELD_SCALES if args.report else (),
    )


def _scales(args: argparse.Namespace, candidates: Sequence[Candidate]) -> tuple[Scale, ...]:
    networks = [c.upscaler.model for c in candidates if isinstance(c.upscaler, Network)]
    edges = sorted({subnet.scales[0] for network in networks for subnet in network.subnets[1:]})
    swept = named_sweeps(args.sweep, edges)
    given = parse_scales(args.scales) if args.scales else () if swept else parse_scales(["2", "3", "4"])
    return tuple(dict.fromkeys((*given, *swept)))


def _scored(evaluation: Evaluation, store: RowStore, num_workers: int | None) -> list[Row]:
    if num_workers == 0 or all(key in store for unit in evaluation.units() for key in unit.keys):
        return evaluate(evaluation, store, in_this_process, _say)
    from pipeline.on_ray.connect import connected
    from pipeline.on_ray.evaluate import over_workers

    exit_on_signals()
    with connected(num_workers):
        return evaluate(evaluation, store, over_workers(num_workers), _say)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    model = "model file, released checkpoint (.pth), models:/NAME@ALIAS, or the word bicubic; NAME= before it names it"
    add("--model", required=True, nargs="+", action="extend", help=model)
    add("--original", nargs="+", action="extend", default=[], help="networks to compare with, scored as a whole")
    add(
        "--suite",
        required=True,
        action="append",
        metavar="NAME=HR[,LR]",
        help="folder of images, or a data set with them in HR; may be repeated",
    )
    add("--scales", nargs="+", default=[], help="2, 2x3.1 (height x width), 1.1:4.0:0.1; 2 3 4 without a sweep")
    add("--sweep", nargs="+", default=[], choices=(*SWEEPS, BOUNDARIES), help="scales by name, beside --scales")
    add("--subnets", nargs="+", help="auto (default), full, each, or indices; auto and full with --report")
    add("--metrics", nargs="+", default=["psnr", "ssim"], choices=METRICS)
    add("--protocol", default="liif", choices=PROTOCOLS, help="how scores are made; printed beside them")
    add("--lr", default="pil", choices=("pil", "matlab"), help="how LR images that are not given are made")
    add("--lpips-weights", type=path_here, help=f"AlexNet's trunk for LPIPS; else {default_weights()}")
    add("--out", type=path_here, default=Path("evaluation"), help="folder of the rows; what is there is not done again")
    add(
        "--workers",
        type=workers_argument(0),
        help="on Ray, one CPU each; 0 is --local, and without this there is one on each CPU",
    )
    add("--local", action="store_true", help="evaluate in this process")
    add("--tracking-uri", help="MLflow server or database; else $MLFLOW_TRACKING_URI, else mlflow.db in this folder")
    add("--report", type=path_here, metavar="HTML", help="write a page about these scores, with costs and pictures")
    add("--costs", action="store_true", help="count and measure what the networks cost, also without --report")
    add("--cost-size", type=_size, default=HR_SIZE, metavar="WxH", help="image that costs are for; 1280x720")
    add("--track", action="store_true", help="log scores, rows and report to MLflow")
    add(REMOTE, action="store_true", help=REMOTE_HELP)
    add("--chdir", type=Path, help="folder that paths are relative to")
    return parser


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 64):
        raise argparse.ArgumentTypeError(f"a size is WIDTHxHEIGHT of at least 64 each, such as 1280x720, got {text!r}")
    return int(height), int(width)


if __name__ == "__main__":
    sys.exit(run_command(main))
