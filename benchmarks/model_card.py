"""The tables of a shipped network's card, scored again from its file: every number in docs/models/NAME.md.

    python -m benchmarks.model_card anysr-tiny --bench data

``--bench`` is a folder of data sets as jobs/prepare_data.py lays them out, where BSD100 is called B100, with the 24
images of Kodak24 (https://r0k.us/graphics/kodak/) beside them; without those, name the other suites with ``--suites``.
Scores go to ``--out``, a folder of rows; what is there is not done again. The tables replace what
stands between the card's two ``scores`` marks.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import anysr
from anysr import AnySR
from anysr.serialization import pretrained_file
from pipeline.errors import UserError, run_command
from pipeline.evaluation.plan import Candidate, Evaluation
from pipeline.evaluation.protocols import is_exact, mean_score
from pipeline.evaluation.rows import Row, RowStore, open_rows
from pipeline.evaluation.run import evaluate, in_this_process
from pipeline.evaluation.scales import Scale, parse_scales
from pipeline.evaluation.suites import open_suite
from pipeline.evaluation.upscalers import Upscaler, open_upscaler

BEGIN, END = "<!-- scores: begin -->", "<!-- scores: end -->"
SUITES = {
    "Set5": ("1", "1.5", "2", "2.5", "3", "4", "6", "8"),
    "Set14": ("1", "1.5", "2", "2.5", "3", "4", "6", "8"),
    "BSD100": ("1", "2", "3", "4", "6", "8"),
    "Kodak24": ("1.5", "2", "3", "4", "6", "8"),
}
FOLDERS = {"BSD100": ("BSD100", "B100")}  # by either of its names
SUBNET_SUITE, SUBNET_SCALES = "Set14", ("1.5", "2", "3", "4")
COST_SIZE = (256, 256)

Means = dict[tuple[str, str, float, str], float]


@dataclass(frozen=True)
class Card:
    """One network's card in the making."""

    network: Upscaler
    model: AnySR
    bench: Path
    suites: tuple[str, ...]
    store: RowStore

    def means(self, suite: str, scales: Sequence[str], upscaler: Upscaler, subnets: Sequence[str]) -> Means:
        """PSNR averaged over a suite, by (suite, model, scale, subnet)."""
        parsed = parse_scales(list(scales))
        evaluation = Evaluation(
            (Candidate(upscaler, tuple(subnets)),),
            (open_suite(f"{suite}={suite_folder(self.bench, suite)}", parsed),),
            parsed,
            ("psnr",),
        )
        rows = evaluate(evaluation, self.store, in_this_process, lambda line: print(line, file=sys.stderr, flush=True))
        return _means(rows)


def suite_folder(bench: Path, suite: str) -> Path:
    """Where a suite's images are.

    Raises:
        UserError: nowhere.
    """
    names = FOLDERS.get(suite, (suite,))
    found = [bench / name for name in names if (bench / name).is_dir()]
    if not found:
        raise UserError(
            f"there is no folder {' or '.join(names)} in {bench}; get it as --help says, or leave {suite} out of "
            "--suites"
        )
    return found[0]


def main() -> int:
    """Score, and write the card's tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help=f"of the box ({', '.join(anysr.list_pretrained())}) or a model file")
    parser.add_argument("--bench", type=Path, required=True, help=f"folder with {', '.join(SUITES)}")
    parser.add_argument("--suites", nargs="+", default=list(SUITES), choices=SUITES)
    parser.add_argument("--out", type=Path, default=Path("evaluation/cards"))
    parser.add_argument("--card", type=Path, help="Markdown file to fill; else docs/models/NAME.md")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for suite in args.suites:
        suite_folder(args.bench, suite)
    file = Path(args.name) if Path(args.name).is_file() else pretrained_file(args.name)
    with open_rows(args.out) as store:
        card = Card(
            open_upscaler(f"{file.stem}={file}", "pil"), anysr.load(file), args.bench, tuple(args.suites), store
        )
        text = "\n\n".join(part(card) for part in PARTS)
    target = args.card or Path("docs/models") / f"{file.stem}.md"
    _fill(target, text)
    print(f"wrote {target}")
    return 0


def cost_table(card: Card) -> str:
    """What each scale costs."""
    lines = ["| scale | subnet | parameters | G multiply-adds | executed | saved |", "|--:|--:|--:|--:|--:|--:|"]
    for scale in (1.5, 2.0, 2.5, 3.0, 4.0):
        own, full = (anysr.cost(card.model, COST_SIZE, scale, subnet) for subnet in ("auto", "full"))
        index = card.model.subnet_for("auto", scale).index
        saved = 1 - own.macs / full.macs
        spent = f"{own.macs / 1e9:.1f} | {own.executed_macs / 1e9:.1f}"
        lines.append(f"| ×{scale:g} | {index} | {own.params:,} | {spent} | {saved:.0%} |")
    return "Cost for a 256 × 256 input; *saved*: against the full network at that scale.\n\n" + "\n".join(lines)


def score_tables(card: Card) -> str:
    """Own subnet, full network and bicubic, per suite and scale."""
    bicubic = open_upscaler("bicubic", "pil")
    lines = ["| suite | scale | bicubic | own subnet | full network | own − full |", "|---|--:|--:|--:|--:|--:|"]
    for suite, scales in ((name, SUITES[name]) for name in card.suites):
        ours = card.means(suite, scales, card.network, ("auto", "full"))
        plain = card.means(suite, [s for s in scales if s != "1"], bicubic, ("full",))
        for scale in map(float, scales):
            own, full = (ours[suite, card.network.name, scale, subnet] for subnet in ("auto", "full"))
            base = plain.get((suite, bicubic.name, scale, "full"))
            shown = "the input" if base is None else f"{base:.2f}"
            gain = "" if base is None else f" ({own - base:+.2f})"
            lost = "0" if own == full else f"{own - full:+.2f}"
            lines.append(f"| {suite} | ×{scale:g} | {shown} | {_decibels(own)}{gain} | {_decibels(full)} | {lost} |")
    return "PSNR in dB.\n\n" + "\n".join(lines)


def boundary_table(card: Card) -> str:
    """The two subnets that meet at each boundary, at that very scale."""
    subnets = card.model.subnets
    lines = ["| suite | boundary | subnet below | subnet above | step |", "|---|--:|--:|--:|--:|"]
    for suite in card.suites:
        for below, above in itertools.pairwise(subnets):
            edge = above.scales[0]
            found = card.means(suite, [f"{edge:g}"], card.network, (str(below.index), str(above.index)))
            low, high = (found[suite, card.network.name, edge, str(subnet.index)] for subnet in (below, above))
            lines.append(f"| {suite} | ×{edge:g} | {low:.2f} | {high:.2f} | {high - low:+.2f} |")
    return "The step at each group boundary: both neighbours at that very scale, so that its slope is left out.\n\n" + (
        "\n".join(lines)
    )


def subnet_table(card: Card) -> str:
    """Every subnet at every scale: what a budget below the scale's own costs."""
    names = [str(subnet.index) for subnet in card.model.subnets]
    suite = SUBNET_SUITE if SUBNET_SUITE in card.suites else card.suites[0]
    found = card.means(suite, SUBNET_SCALES, card.network, names)
    lines = ["| scale | " + " | ".join(f"subnet {name}" for name in names) + " |", "|--:|" + "--:|" * len(names)]
    for scale in map(float, SUBNET_SCALES):
        values = [found[suite, card.network.name, scale, name] for name in names]
        macs = [anysr.cost(card.model, COST_SIZE, scale, int(name)).macs / 1e9 for name in names]
        cells = [f"{value:.2f} ({cost:.0f} G)" for value, cost in zip(values, macs, strict=True)]
        lines.append(f"| ×{scale:g} | {' | '.join(cells)} |")
    return f"Every subnet at every scale, {suite}: what a budget below the scale's own costs.\n\n" + "\n".join(lines)


PARTS: tuple[Callable[[Card], str], ...] = (cost_table, score_tables, boundary_table, subnet_table)


def _means(rows: Sequence[Row]) -> Means:
    groups: dict[tuple[str, str, float, str], list[float]] = {}
    for row in rows:
        if row.value is None:
            raise SystemExit(f"{row.suite} {row.image} x{Scale(row.scale_h, row.scale_w)} has no score: {row.status}")
        groups.setdefault((row.suite, row.model, row.scale_h, row.subnet), []).append(row.value)
    return {key: mean_score("psnr", values) for key, values in groups.items()}


def _decibels(value: float) -> str:
    return "exact" if is_exact("psnr", value) else f"{value:.2f}"


def _fill(path: Path, text: str) -> None:
    before = path.read_text() if path.exists() else f"# {path.stem}\n\n{BEGIN}\n{END}\n"
    head, _, rest = before.partition(BEGIN)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    sys.exit(run_command(main))
