"""How much faster are our forms than the textbook's, with the same weights, in one interleaved run?

    python -m benchmarks.fast_vs_textbook --networks edsr-baseline-liif --scales 2 2.7 4 --out results.csv

The textbook form (tests/textbook_networks.py) runs in float32, whole image, without gradients: as
published, once for each network, scale and round; then each precision, subnet and ``--kernels`` choice
of ours. ``--train`` times an optimiser step instead (batch 4, LR 48 x 48, 2,304 queries each, data
excluded). Times are the process's own on one thread (``time.process_time``), so that a busy machine
disturbs them little, and wall time on more or on a GPU (``--device cuda``). ``peak_gflops`` is the
best float32 product measured beforehand. ``saving_kept`` is the share of a narrower subnet's saving
in multiply-adds that shows in its time, against the full one. Rows are added to the file; those it has
already, of the same commit, processor and case, are not measured again, so that a long table can be
made in pieces. ``python -m benchmarks.plot_fast results.csv`` draws the picture; docs/speed.md tells
what was found.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from anysr import AnySR, ModelConfig, SubnetConfig, cost
from anysr.fast_linear import FastLinear
from anysr.model import SubnetChoice
from anysr.zoo import MODELS
from pipeline.evaluation.environment import processor, short_commit
from tests import textbook, textbook_encoders, textbook_networks

# Whole networks that narrow: encoder and decoder at 1/2 and 3/4, in whole tiles of the products.
_NARROW = (SubnetConfig((1.0, 2.0), 0.5, 0.5), SubnetConfig((2.0, 3.0), 0.75, 0.75), SubnetConfig((3.0, 4.0)))
NETWORKS: dict[str, ModelConfig] = {
    **MODELS,
    **{f"edsr-baseline-{d}-narrow": replace(MODELS[f"edsr-baseline-{d}"], subnets=_NARROW) for d in ("liif", "srno")},
}


@dataclass
class Row:
    """One line of the results; seconds are the best of the repeats."""

    task: str
    network: str
    subnet: str
    precision: str
    kernels: str
    scale: float
    lr_px: int
    textbook_s: float
    fast_s: float
    ratio: float
    textbook_encoder_s: float
    fast_encoder_s: float
    upsampler_ratio: float
    gmacs: float
    saving_kept: float
    executed_gflops: float
    upsampler_gflops: float
    peak_gflops: float
    largest_difference: float
    threads: int
    load: float
    cpu: str  # or the GPU
    torch: str
    python: str
    commit: str


# What makes two rows the same measurement.
_SAME = ("task", "network", "subnet", "precision", "kernels", "scale", "lr_px", "threads", "cpu", "commit")


def main() -> None:
    """Measure and write one CSV row per network, scale, precision, subnet and kernel choice."""
    args = parse()
    torch.set_num_threads(args.threads)
    peak = peak_gflops(args)
    done = _done(args.out)
    with args.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        if not args.out.stat().st_size:
            writer.writeheader()
        for network, scale in itertools.product(args.networks, args.scales):
            cases = [case for case in _cases(args) if _key(args, network, scale, case) not in done]
            for row in measure(args, network, scale, cases, peak) if cases else ():
                writer.writerow(asdict(row))
                file.flush()
                how = f"{row.network} x{scale:g} {row.subnet} {row.precision} kernels {row.kernels}"
                print(
                    f"{how}: {row.textbook_s:.2f} s -> {row.fast_s:.2f} s, {row.ratio:.2f}x "
                    f"(upsampler {row.upsampler_ratio:.2f}x, saving kept {row.saving_kept:.2f})",
                    flush=True,
                )


Case = tuple[SubnetChoice, str, str]  # subnet, precision, kernels


def _cases(args: argparse.Namespace) -> list[Case]:
    return list(itertools.product([_subnet(name) for name in args.subnets], args.precisions, args.kernels))


def _done(path: Path) -> set[tuple[str, ...]]:
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {tuple(row[name] for name in _SAME) for row in csv.DictReader(file)}


def _key(args: argparse.Namespace, network: str, scale: float, case: Case) -> tuple[str, ...]:
    task, size = ("train", 48) if args.train else ("infer", args.size)
    return tuple(map(str, (task, network, *case, scale, size, args.threads, machine(args), short_commit())))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, metavar="NAME", required=True)
    parser.add_argument("--scales", nargs="+", type=float, default=[2.0, 2.7, 4.0])
    parser.add_argument("--precisions", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--subnets", nargs="+", default=["full"], help='"full", "auto" or indices')
    parser.add_argument("--kernels", nargs="+", choices=["on", "off"], default=["on", "off"], help="ANYSR_KERNELS")
    parser.add_argument("--size", type=int, default=256, help="height and width of the LR image")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("fast_vs_textbook.csv"))
    return parser.parse_args()


def measure(args: argparse.Namespace, network: str, scale: float, cases: list[Case], peak: float) -> Iterator[Row]:
    """The textbook and every fast form of one network at one scale, turn by turn."""
    torch.manual_seed(0)
    model = AnySR(NETWORKS[network]).train(args.train).to(args.device)
    task = training_step if args.train else inference
    runs = [run for case in cases for run in task(model, scale, *case, args)[2:]]
    book_runs = task(model, scale, "full", "float32", "off", args)[:2]
    seconds, answers = interleaved([*book_runs, *runs], args)
    book, book_encoder = seconds[:2]
    size = 48 if args.train else args.size
    costs = [cost(model, (size, size), scale, subnet) for subnet, _, _ in cases]
    for i, (subnet, precision, kernel) in enumerate(cases):
        fast, fast_encoder = seconds[2 + 2 * i : 4 + 2 * i]
        upsampler_s = max(fast - fast_encoder, 1e-3)
        executed = costs[i].executed_macs - costs[i].encoder_macs
        difference = saving_kept = float("nan")
        if subnet == "full":
            if answers[0] is not None and answers[2 + 2 * i] is not None:
                difference = float((answers[0] - answers[2 + 2 * i].float()).abs().max())
        elif (full := ("full", precision, kernel)) in cases:
            whole = cases.index(full)
            saved_macs = 1 - costs[i].macs / costs[whole].macs
            saving_kept = (1 - fast / seconds[2 + 2 * whole]) / saved_macs
        yield Row(
            "train" if args.train else "infer", network, str(subnet), precision, kernel, scale, size, book, fast,
            book / fast, book_encoder, fast_encoder, (book - book_encoder) / upsampler_s, 1e-9 * costs[i].macs,
            saving_kept, 2e-9 * costs[i].executed_macs / fast, 2e-9 * executed / upsampler_s, peak, difference,
            args.threads, os.getloadavg()[0], machine(args), torch.__version__, platform.python_version(),
            short_commit(),
        )  # fmt: skip


def machine(args: argparse.Namespace) -> str:
    """What ran: the processor or the GPU."""
    return torch.cuda.get_device_name() if args.device == "cuda" else processor()


def _subnet(name: str) -> SubnetChoice:
    return int(name) if name.isdigit() else name  # type: ignore[return-value]


Run = Callable[[], torch.Tensor | None]


def inference(
    model: AnySR, scale: float, subnet: SubnetChoice, precision: str, kernels: str, args: argparse.Namespace
) -> list[Run]:
    """Textbook and its encoder, then ours and its encoder; a subnet in its own, physically smaller form."""
    lr = torch.rand(1, 3, args.size, args.size, generator=torch.Generator().manual_seed(0)).to(args.device)
    chosen = model.subnet_for(subnet, scale)
    full = model.subnet_for("full", scale)
    given = model.extract(chosen.index).fuse().eval().to(getattr(torch, precision))
    pair, width = (scale, scale), chosen.encoder_channels
    low = lr.to(getattr(torch, precision))

    def with_kernels(run: Run) -> Run:
        def switched() -> torch.Tensor | None:
            os.environ["ANYSR_KERNELS"] = kernels
            return run()

        return switched

    runs: list[Run] = [
        lambda: textbook_networks.enlarge(model, lr, pair, full.index),
        lambda: textbook_encoders.encode(model.encoder, lr, pair, full.encoder_channels),
        with_kernels(lambda: given(lr, scale)),
        with_kernels(lambda: given.encoder(low, pair, width)),
    ]
    return [torch.no_grad()(run) for run in runs]


def training_step(
    model: AnySR, scale: float, subnet: SubnetChoice, precision: str, kernels: str, args: argparse.Namespace
) -> list[Run]:
    """Forward, backward and Adam, ours fused as in ``pipeline/train``; the encoder's share is not separated."""
    shapes = (4, 3, 48, 48), (4, 2304, 2), (4, 2304, 3)
    lr, coord, hr = (torch.rand(shape, device=args.device) for shape in shapes)
    coord = coord * 2 - 1
    published, ours = (torch.optim.Adam(model.parameters(), lr=1e-5, fused=fused) for fused in (None, True))
    size = round(48 * scale)
    chosen = model.subnet_for(subnet, scale)

    def step(forward: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        (forward().float() - hr).abs().mean().backward()
        optimizer.step()

    def book() -> torch.Tensor:
        image = (lr - 0.5) / 0.5
        feat = textbook_encoders.encode(model.encoder, image, (scale, scale), chosen.encoder_channels)
        cell = (2 / size, 2 / size)
        return textbook.decode(model.decoder, feat, image, coord, cell, chosen.decoder_channels) * 0.5 + 0.5

    def fast() -> torch.Tensor:
        os.environ["ANYSR_KERNELS"] = kernels
        with torch.autocast(args.device, torch.bfloat16, enabled=precision == "bfloat16"):
            return model(lr, scale, coord=coord, subnet=subnet)

    return [lambda: step(book, published), lambda: None, lambda: step(fast, ours), lambda: None]


def clock_of(args: argparse.Namespace) -> Callable[[], float]:
    """Seconds so far: the process's own on one thread, else wall time, when the GPU has done what it was given."""
    if args.device == "cuda":
        return lambda: torch.cuda.synchronize() or time.perf_counter()
    return time.process_time if args.threads == 1 else time.perf_counter


def interleaved(runs: list[Run], args: argparse.Namespace) -> tuple[list[float], list[torch.Tensor | None]]:
    """Best time of each, and its answer, one round after the other; short runs several times a round."""
    clock = clock_of(args)
    best = [float("inf")] * len(runs)
    answers: list[torch.Tensor | None] = [None] * len(runs)
    for _ in range(args.repeats):
        for i, run in enumerate(runs):
            for _ in range(3):
                start = clock()
                answers[i] = run()
                best[i] = min(best[i], clock() - start)
                if best[i] > 5:
                    break
    return best, answers


def peak_gflops(args: argparse.Namespace) -> float:
    """Best of plain and prepacked products of 2,048 x 256 x 256, GFLOP/s; of 131,072 rows on a GPU, to fill it."""
    clock, rows = clock_of(args), 2048 if args.device == "cpu" else 2**17
    shapes = (rows, 256), (256, 256), (256,)
    x, weight, bias = (torch.randn(shape, device=args.device) for shape in shapes)
    best = 0.0
    with torch.no_grad():
        layer = FastLinear(weight, bias)
        for run in (lambda: layer(x), lambda: torch.nn.functional.linear(x, weight, bias)):
            for _ in range(20):
                start = clock()
                for _ in range(10):
                    run()
                best = max(best, 10 * 2e-9 * rows * 256 * 256 / (clock() - start))
    return best


if __name__ == "__main__":
    main()
