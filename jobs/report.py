"""Write the page about scores that are there already.

Examples:
    python jobs/report.py evaluation --report report.html
    python jobs/report.py evaluation --report report.html --protocol basicsr --lr matlab --suite Set5 Set14
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.errors import UserError, run_command
from pipeline.evaluation.report.book import open_book
from pipeline.evaluation.report.page import write_report
from pipeline.evaluation.rows import Row, read_rows
from pipeline.storage.places import path_here
from pipeline.tracking.evaluation_run import log_evaluation


def main() -> int:
    """Choose rows, write the page, log it if asked to."""
    args = _parser().parse_args()
    rows = [row for row in read_rows(args.folder) if _is_asked_for(row, args)]
    if not rows:
        raise UserError(f"{args.folder} holds no such rows; make them with jobs/evaluate.py --out {args.folder}")
    write_report(open_book(args.folder, rows), args.report)
    print(f"report: {args.report}")
    if args.track:
        print(log_evaluation(args.tracking_uri, rows, args.folder, args.report))
    return 0


def _is_asked_for(row: Row, args: argparse.Namespace) -> bool:
    asked = {"protocol": args.protocol, "lr": args.lr, "suite": args.suite, "model": args.model}
    return all(not values or getattr(row, name) in values for name, values in asked.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("folder", type=path_here, help="the --out of jobs/evaluate.py")
    add("--report", type=path_here, default=Path("report.html"), metavar="HTML", help="the file to write")
    for name in ("protocol", "lr", "suite", "model"):
        add(f"--{name}", nargs="+", help="only the rows of these")
    add("--track", action="store_true", help="log scores, rows and report to MLflow")
    add("--tracking-uri", help="MLflow server or database; else $MLFLOW_TRACKING_URI, else mlflow.db in this folder")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
