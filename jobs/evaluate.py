"""Score a model on suites of images: one row per image, suite, scale, subnet and metric.

Examples:
    python jobs/evaluate.py --local --model bicubic --suite Set5=data/Set5 --scales 2 3 4
    python jobs/evaluate.py --local --model model.safetensors --suite data/Set5 --scales 1.1:4.0:0.1 2x3.1 \
        --subnets auto full --metrics psnr ssim lpips --protocol anysr
    python jobs/evaluate.py --local --model bicubic --suite B100=B100/HR,B100/LR/X{scale} --scales 2 4
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.errors import UserError, run_command
from pipeline.evaluation.perceptual import LpipsAlex, default_weights
from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.evaluation.rows import open_rows
from pipeline.evaluation.run import METRICS, Evaluation, evaluate
from pipeline.evaluation.scales import parse_scales
from pipeline.evaluation.suites import open_suite
from pipeline.evaluation.summary import print_summary
from pipeline.evaluation.upscalers import open_upscaler


def main() -> int:
    """Parse, check everything that can be checked beforehand, score, print the means."""
    args = _parser().parse_args()
    if not args.local:
        raise UserError("evaluation over Ray workers is not there yet; add --local to evaluate in this process")
    scales = parse_scales(args.scales)
    upscaler = open_upscaler(args.model, args.lr)
    evaluation = Evaluation(
        upscaler,
        tuple(open_suite(text, scales) for text in args.suite),
        scales,
        upscaler.subnets(args.subnets),
        tuple(dict.fromkeys(args.metrics)),
        args.protocol,
        args.lr,
        LpipsAlex(args.lpips_weights) if "lpips" in args.metrics else None,
    )
    with open_rows(args.out.expanduser()) as store:
        rows = evaluate(evaluation, store, lambda line: print(line, file=sys.stderr, flush=True))
    print_summary(rows)
    print(f"rows: {store.file}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model", required=True, help="model file, released checkpoint (.pth), or the word bicubic")
    add("--suite", required=True, action="append", metavar="NAME=HR[,LR]", help="folder of images; may be repeated")
    add("--scales", nargs="+", default=["2", "3", "4"], help="2, 2x3.1 (height x width), 1.1:4.0:0.1")
    add("--subnets", nargs="+", default=["auto"], help="auto, full, each, or indices")
    add("--metrics", nargs="+", default=["psnr", "ssim"], choices=METRICS)
    add("--protocol", default="liif", choices=PROTOCOLS, help="how scores are made; printed beside them")
    add("--lr", default="pil", choices=("pil", "matlab"), help="how LR images that are not given are made")
    add("--lpips-weights", type=Path, help=f"AlexNet's trunk for LPIPS; else {default_weights()}")
    add("--out", type=Path, default=Path("evaluation"), help="folder of the rows; what is there is not done again")
    add("--local", action="store_true", help="evaluate in this process")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
