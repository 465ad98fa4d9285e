"""Time and memory of one enlargement, in a process of its own: ``python -m pipeline.evaluation.measure``.

Reads a :class:`Question` as JSON from standard input and answers with a :class:`Measured`. A peak of
memory is a property of a process, which is why this is one.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import anysr
from anysr import AnySR

_RUNS, _ENOUGH_S = 5, 3.0


@dataclass(frozen=True)
class Question:
    """What to measure.

    Attributes:
        file: the model.
        lr_size: (h, w) of the LR image.
        hr_size: (H, W) of the answer.
        scale: (s_h, s_w).
        subnet: its index.
    """

    file: str
    lr_size: tuple[int, int]
    hr_size: tuple[int, int]
    scale: tuple[float, float]
    subnet: int


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        latency_ms: median over the runs.
        peak_bytes: most memory in use while enlarging, beyond what the loaded model had before.
        runs: how many.
        device: "cpu" or the GPU's name.
        threads: of the CPU.
    """

    latency_ms: float
    peak_bytes: int
    runs: int
    device: str
    threads: int


@torch.inference_mode()
def measure(question: Question) -> Measured:
    """Enlarge noise of the given size, once for the peak, then for the time until some seconds are over."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = anysr.load(question.file, device)
    lr = torch.rand(1, 3, *question.lr_size, device=device)
    _run(model, lr[..., :16, :16], question, small=True)  # libraries load what they load once
    before = _start_peak(device)
    times = [_run(model, lr, question)]
    peak = _peak(device) - before
    while len(times) < _RUNS and sum(times) < _ENOUGH_S:
        times.append(_run(model, lr, question))
    if len(times) > 1:
        times = times[1:]
    name = "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return Measured(statistics.median(times) * 1e3, max(0, peak), len(times), name, torch.get_num_threads())


def _run(model: AnySR, lr: torch.Tensor, question: Question, small: bool = False) -> float:
    start = time.perf_counter()
    model(lr, question.scale, None if small else question.hr_size, subnet=question.subnet)
    if lr.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _start_peak(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    return _resident("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _resident("VmHWM")


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    values = json.load(sys.stdin)
    print(json.dumps(asdict(measure(Question(**values)))))
