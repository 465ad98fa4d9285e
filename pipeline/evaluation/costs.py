"""What the evaluated networks cost: parameters and multiply-adds counted, time and memory measured, as rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import anysr
from pipeline.data.degrade import pair_sizes
from pipeline.evaluation.measure import Measured, Question
from pipeline.evaluation.plan import Evaluation
from pipeline.evaluation.rows import OK, write_table
from pipeline.evaluation.scales import Scale
from pipeline.evaluation.upscalers import Network

HR_SIZE = (720, 1280)  # what the field's tables are for
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class CostRow:
    """One image of ``hr_h`` x ``hr_w`` made by a subnet.

    Attributes:
        model_digest: as in the rows of scores, like the next five.
        model: its name.
        kind: what kind of network.
        subnet: "auto", "full" or an index.
        scale_h: s_h.
        scale_w: s_w.
        index: the subnet that answers.
        hr_h: height of the HR image that is cropped to what an LR image of whole pixels shows.
        hr_w: width of it.
        params: weights of the whole network at this width.
        encoder_macs: multiply-adds of the encoder, in its published form.
        decoder_macs: multiply-adds of the decoder, in its published form.
        executed_macs: multiply-adds of the exact faster form that runs here.
        latency_ms: median time; null where it was not measured.
        peak_bytes: memory beyond the loaded model; null where it was not measured.
        runs: how many times it was timed.
        device: "cpu" or the GPU's name.
        threads: of the CPU.
        status: "ok", or why it could not be measured.
    """

    model_digest: str
    model: str
    kind: str
    subnet: str
    scale_h: float
    scale_w: float
    index: int
    hr_h: int
    hr_w: int
    params: int
    encoder_macs: int
    decoder_macs: int
    executed_macs: int
    latency_ms: float | None = None
    peak_bytes: int | None = None
    runs: int = 0
    device: str = ""
    threads: int = 0
    status: str = OK

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole network."""
        return self.encoder_macs + self.decoder_macs

    @property
    def same(self) -> tuple[object, ...]:
        """Equal for rows that one measurement serves."""
        return self.model_digest, self.index, self.scale_h, self.scale_w, self.hr_h, self.hr_w

    @property
    def place(self) -> tuple[object, ...]:
        """Equal for rows of which a report shows one."""
        return self.model_digest, self.model, self.subnet, self.scale_h, self.scale_w


def add_costs(
    evaluation: Evaluation,
    folder: Path,
    measured: Sequence[Scale],
    hr_size: tuple[int, int],
    say: Callable[[str], None],
) -> None:
    """Write the costs of an evaluation's networks into ``folder``, beside those of others that are there.

    Args:
        evaluation: names the networks, their subnets and the scales.
        folder: that of the rows of scores.
        measured: scales at which time and memory are measured, once for each subnet.
        hr_size: (height, width) of the image that costs are for.
        say: shows a line of progress.
    """
    known = {row.same: row for row in read_costs(folder) if row.latency_ms is not None}
    rows = list(_counted(evaluation, hr_size))
    todo = [row for row in rows if Scale(row.scale_h, row.scale_w) in measured]
    unknown = list({row.same: row for row in todo if row.same not in known}.values())
    for number, row in enumerate(_measured(evaluation, unknown), start=1):
        known[row.same] = row
        say(f"measured {number}/{len(unknown)}  {row.model} subnet {row.index} x{Scale(row.scale_h, row.scale_w)}")
    rows = [_with_measurement(r, known[r.same]) if r.same in known else r for r in rows]
    new = {row.place for row in rows}
    kept = [row for row in read_costs(folder) if row.place not in new]
    write_table(folder / "costs.parquet", CostRow, kept + rows)


def read_costs(folder: Path) -> list[CostRow]:
    """The costs in a folder; none where there is no file of this form."""
    try:
        return [CostRow(**values) for values in pq.read_table(folder / "costs.parquet").to_pylist()]
    except (FileNotFoundError, pa.ArrowException, TypeError):
        return []


def _networks(evaluation: Evaluation) -> dict[str, Network]:
    models = [candidate.upscaler for candidate in evaluation.candidates]
    return {model.digest: model for model in models if isinstance(model, Network)}


def _counted(evaluation: Evaluation, hr_size: tuple[int, int]) -> Iterator[CostRow]:
    for candidate in evaluation.candidates:
        network = candidate.upscaler
        if not isinstance(network, Network):
            continue
        for scale in evaluation.scales:
            lr_size, _ = pair_sizes(hr_size, scale.pair)
            for subnet in candidate.subnets_at(scale, scale in evaluation.frontier):
                index = int(network.index(subnet, scale))
                cost = anysr.cost(network.model, lr_size, scale.pair, index)
                yield CostRow(
                    network.digest, network.name, network.kind, subnet, *scale.pair, index, *hr_size, cost.params,
                    cost.encoder_macs, cost.decoder_macs, cost.executed_macs,
                )  # fmt: skip


def _measured(evaluation: Evaluation, rows: Sequence[CostRow]) -> Iterator[CostRow]:
    """Each row with what a process of its own measured; they come of one that has nothing to do with this."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pipeline.evaluation.measure"]
    if not rows:
        return
    with subprocess.Popen(
        command,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for row in rows:
            process.stdin.write(json.dumps(asdict(_question(evaluation, row))) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            answer = json.loads(line) if line else "the measuring process ended"
            if isinstance(answer, str):
                yield replace(row, status=f"not measured: {answer}")
            else:
                yield replace(row, **asdict(Measured(**answer)))
            if not line:
                return
        process.stdin.close()


def _question(evaluation: Evaluation, row: CostRow) -> Question:
    lr_size, hr_size = pair_sizes((row.hr_h, row.hr_w), (row.scale_h, row.scale_w))
    file = str(_networks(evaluation)[row.model_digest].file.resolve())
    return Question(file, lr_size, hr_size, (row.scale_h, row.scale_w), row.index)


def _with_measurement(row: CostRow, other: CostRow) -> CostRow:
    names = ("latency_ms", "peak_bytes", "runs", "device", "threads", "status")
    return replace(row, **{name: getattr(other, name) for name in names})
