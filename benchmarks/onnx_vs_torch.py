"""How fast is an exported network in onnxruntime, beside the same network in PyTorch?

    python -m benchmarks.onnx_vs_torch --folder exports --export-only       # takes minutes, needs no quiet
    python -m benchmarks.onnx_vs_torch --folder exports --out results.csv

Four ways, image to image in float32 on the CPU, turn by turn in one process with as many threads each:
``onnx`` in onnxruntime, ``eager`` ours in PyTorch's operators alone, ``kernels`` ours with the compiled
kernels, and once ``textbook``, the form and order of the published code. Seconds are the best of the
repeats. The model is a network in the box, or a named one with fresh weights.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import anysr
from anysr.export import export_file
from pipeline.evaluation.environment import processor, short_commit
from tests import textbook_networks

NETWORKS = ("anysr-tiny", "anysr-base", *(f"edsr-baseline-{d}" for d in ("liif", "srno", "metasr", "arbsr")))


@dataclass
class Row:
    """One line of the results: seconds, and how many times as fast as each other way onnxruntime is."""

    network: str
    subnet: int
    lr_px: int
    scale: float
    onnx_s: float
    eager_s: float
    kernels_s: float
    textbook_s: float
    over_eager: float
    over_kernels: float
    over_textbook: float
    largest_difference: float
    threads: int
    load: float
    cpu: str
    torch: str
    onnxruntime: str
    commit: str


def main() -> None:
    """One row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--folder", type=Path, required=True, help="keeps the exports")
    parser.add_argument("--export-only", action="store_true")
    parser.add_argument("--lr-px", type=int, default=96, help="LR pixels a side")
    parser.add_argument("--scale", type=float, default=2.37)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("onnx_vs_torch.csv"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    exports = [exported(name, args) for name in args.networks]
    if args.export_only:
        return
    rows = [measured(name, *export, args) for name, export in zip(args.networks, exports, strict=True)]
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def exported(name: str, args: argparse.Namespace) -> tuple[anysr.AnySR, int, Path]:
    """The network, the subnet that the scale chooses, and its file, written if it is not there."""
    torch.manual_seed(0)
    model = (anysr.load(name) if name in anysr.list_pretrained() else anysr.build(name)).eval()
    subnet = model.subnet_for("auto", args.scale).index
    path = args.folder / f"{name}-{subnet}.onnx"
    if not path.is_file():
        export_file(model, subnet, path, "onnx", name)
    return model, subnet, path


def measured(name: str, model: anysr.AnySR, subnet: int, path: Path, args: argparse.Namespace) -> Row:
    """The ways in turn, after one round that does not count."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = args.threads, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    lr = torch.rand(1, 3, args.lr_px, args.lr_px)
    given = {"lr": lr.numpy(), "scale": np.array([args.scale] * 2)}

    def in_torch(kernels: str) -> torch.Tensor:
        os.environ["ANYSR_KERNELS"] = kernels
        answer: torch.Tensor = model(lr, args.scale)
        return answer

    ways: dict[str, Callable[[], object]] = {
        "onnx": lambda: session.run(["sr"], given),
        "eager": lambda: in_torch("off"),
        "kernels": lambda: in_torch("on"),
    }
    with torch.no_grad():
        difference = float(np.abs(session.run(["sr"], given)[0] - in_torch("off").numpy()).max())
        in_torch("on")
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.repeats):
            for way, call in ways.items():
                taken[way].append(seconds(call))
        textbook = seconds(lambda: textbook_networks.enlarge(model, lr, (args.scale, args.scale), subnet))
    onnx, eager, kernels = (min(taken[way]) for way in ways)
    row = Row(
        network=name,
        subnet=subnet,
        lr_px=args.lr_px,
        scale=args.scale,
        onnx_s=round(onnx, 4),
        eager_s=round(eager, 4),
        kernels_s=round(kernels, 4),
        textbook_s=round(textbook, 4),
        over_eager=round(eager / onnx, 2),
        over_kernels=round(kernels / onnx, 2),
        over_textbook=round(textbook / onnx, 2),
        largest_difference=difference,
        threads=args.threads,
        load=round(os.getloadavg()[0], 1),
        cpu=processor(),
        torch=torch.__version__,
        onnxruntime=onnxruntime.__version__,
        commit=short_commit(),
    )
    print(f"{name}: x{row.over_eager} eager, x{row.over_kernels} kernels, x{row.over_textbook} textbook", flush=True)
    return row


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
