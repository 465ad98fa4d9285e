"""Two networks of the registry side by side on suites of images."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from anysr import AnySR
from anysr.cost import mean_macs
from pipeline.data.photos import photo_folder
from pipeline.errors import UserError
from pipeline.evaluation.plan import Candidate, Evaluation
from pipeline.evaluation.protocols import is_exact, mean_score
from pipeline.evaluation.rows import OK, Row, open_rows
from pipeline.evaluation.run import evaluate, in_this_process
from pipeline.evaluation.scales import Scale, parse_scales
from pipeline.evaluation.suites import Suite, open_suite
from pipeline.evaluation.upscalers import Network, open_upscaler
from pipeline.registry.decision import Comparison, Difference, group_name, scales_inside, shared_groups
from pipeline.registry.resolve import resolve_model
from pipeline.storage.cache import cache_root

OLD, NEW = "present", "other"
Say = Callable[[str], None]


def compare(
    old_uri: str, new_uri: str, suites: Sequence[str] | None, scales: Sequence[str], tracking_uri: str | None, say: Say
) -> Comparison:
    """Score both networks, each scale through its own subnet.

    Args:
        old_uri: the present network, as :func:`pipeline.registry.resolve.resolve_model` takes it.
        new_uri: the one to compare with it.
        suites: as ``pipeline.evaluation.suites`` takes them; none is the validation photos in the box.
        scales: as ``pipeline.evaluation.scales`` takes them; none is three in each scale group.
        tracking_uri: the registry.
        say: shows a line of progress.

    Raises:
        UserError: a suite, scale or version that does not exist; an image that cannot be scored.
    """
    old, new = (_network(uri, name, tracking_uri) for uri, name in ((old_uri, OLD), (new_uri, NEW)))
    groups = shared_groups(_edges(old.model), _edges(new.model))
    wanted = parse_scales(scales) if scales else _spread(old, groups)
    named = suites or [f"photos={photo_folder(None, 'validation')}"]
    opened = tuple(open_suite(text, wanted, say) for text in named)
    if old.digest == new.digest:
        differences: list[Difference] = []
        protocol = "the two are the same network"
    else:
        differences, protocol = _differences(old, new, opened, wanted, groups, say)
    covered = (groups[0][0], groups[-1][1])
    macs = [mean_macs(network.model, scales=covered) for network in (old, new)]
    return Comparison(
        tuple(differences),
        macs[0],
        macs[1],
        protocol,
        new.factor if new.factor != old.factor else None,
        _uncompared(old, new, groups, differences),
    )


def print_comparison(comparison: Comparison, old: str, new: str) -> None:
    """A line per suite and scale, and the costs."""
    table = Table(caption=comparison.protocol, caption_justify="left")
    for heading in ("suite", "scale group", "scale", old, new, "difference"):
        table.add_column(heading, justify="left" if heading == "suite" else "right")
    for one in comparison.differences:
        scores = ("exact" if is_exact("psnr", mean) else f"{mean:.3f}" for mean in (one.old, one.new))
        table.add_row(one.suite, one.group_name, f"x{one.scale}", *scores, f"{one.gain:+.3f}")
    console = Console(width=110)
    console.print(table)
    if comparison.uncompared:
        console.print(
            f"not compared: scale groups {', '.join(map(group_name, comparison.uncompared))}", highlight=False
        )
    console.print(
        f"multiply-adds of a 256 x 256 input, mean over the scales: {comparison.old_macs / 1e9:.4g} G -> "
        f"{comparison.new_macs / 1e9:.4g} G",
        highlight=False,
    )


def _network(uri: str, name: str, tracking_uri: str | None) -> Network:
    upscaler = open_upscaler(f"{name}={resolve_model(uri, tracking_uri)}", "pil")
    assert isinstance(upscaler, Network)
    return upscaler


def _edges(model: AnySR) -> list[float]:
    return [model.subnets[0].scales[0], *(subnet.scales[1] for subnet in model.subnets)]


def _spread(old: Network, groups: Sequence[tuple[float, float]]) -> tuple[Scale, ...]:
    if old.factor is not None:
        return (Scale(old.factor, old.factor),)
    return tuple(Scale(scale, scale) for group in groups for scale in scales_inside(group))


def _differences(
    old: Network, new: Network, suites: tuple[Suite, ...], scales: tuple[Scale, ...],
    groups: Sequence[tuple[float, float]], say: Say,
) -> tuple[list[Difference], str]:  # fmt: skip
    candidates = tuple(Candidate(network, network.subnets(["auto"])) for network in (old, new))
    evaluation = Evaluation(candidates, suites, scales, metrics=("psnr",))
    with open_rows(_kept_rows(old, new)) as store:
        rows = evaluate(evaluation, store, in_this_process, say)
    means = _means(rows)
    found = [
        Difference(suite.name, _group_of(scale, groups), str(scale), *(means[suite.name, scale, n] for n in (OLD, NEW)))
        for suite in suites
        for scale in scales
        if all((suite.name, scale, name) in means for name in (OLD, NEW))
    ]
    if not found:
        raise UserError("the two networks serve no scale in common; name one with --scales")
    return found, rows[0].scoring


def _kept_rows(old: Network, new: Network) -> Path:
    """A folder of this pair alone: a comparison that was cut short goes on, and others do not wait for it."""
    pair = hashlib.sha256(f"{old.digest} {new.digest}".encode()).hexdigest()[:16]
    folder = cache_root() / "comparisons" / pair
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _means(rows: Sequence[Row]) -> dict[tuple[str, Scale, str], float]:
    """Mean PSNR by suite, scale and network.

    Raises:
        UserError: an image has no score, or one that is no number; an exact image, of infinite PSNR, has one.
    """
    values: dict[tuple[str, Scale, str], list[float]] = defaultdict(list)
    for row in rows:
        scale = Scale(row.scale_h, row.scale_w)
        if row.status != OK:
            raise UserError(f"{row.suite} {row.image} cannot be scored: {row.status}")
        if row.value is None or not row.value > -math.inf:
            raise UserError(
                f"{row.suite} {row.image} at x{scale}: the {row.model} network scores {row.value} dB, which cannot be "
                "compared; look at its answer with anysr upscale"
            )
        values[row.suite, scale, row.model].append(row.value)
    return {key: mean_score("psnr", found) for key, found in values.items()}


def _uncompared(
    old: Network, new: Network, groups: Sequence[tuple[float, float]], differences: Sequence[Difference]
) -> tuple[tuple[float, float], ...]:
    """The groups without a score of both; networks that are the same, or have one factor alone, need none elsewhere."""
    if old.digest == new.digest or old.factor is not None or new.factor is not None:
        return ()
    compared = {difference.group for difference in differences}
    return tuple(group for group in groups if group not in compared)


def _group_of(scale: Scale, groups: Sequence[tuple[float, float]]) -> tuple[float, float]:
    largest = max(scale.pair)
    return next((group for group in groups if largest < group[1]), groups[-1])
