"""Time and memory of enlargements, each in a process of its own: ``python -m pipeline.evaluation.measure``.

Reads :class:`Question` objects as lines of JSON from standard input and answers each with a line: a
:class:`Measured`, or a text that says why not. A peak of memory is a property of a process, so each
question has one; they are forked from this one, which has loaded the libraries and computed nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

import anysr
from anysr import AnySR

_RUNS, _ENOUGH_S, _LONGEST_S = 5, 3.0, 600


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
    """Enlarge noise of the given size: the first run gives the peak, those after it the time."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = anysr.load(question.file, device)
    lr = torch.rand(1, 3, *question.lr_size, device=device)
    _run(model, lr[..., :16, :16], question, None)  # libraries load what they load once
    before = _start_peak(device)
    first = _run(model, lr, question, question.hr_size)
    peak = _peak(device) - before
    times: list[float] = []
    while len(times) < _RUNS and first + sum(times) < _ENOUGH_S:
        times.append(_run(model, lr, question, question.hr_size))
    times = times or [first]
    name = "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return Measured(statistics.median(times) * 1e3, max(0, peak), len(times), name, torch.get_num_threads())


def in_own_process(question: Question) -> Measured | str:
    """The same in a fork of this process; a text where there is no answer."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(question, sender))
    process.start()
    sender.close()
    try:
        asker, deadline = os.getppid(), time.monotonic() + _LONGEST_S
        while not receiver.poll(1.0):
            if time.monotonic() > deadline or os.getppid() != asker:  # nobody waits for the answer any more
                return f"it took longer than {_LONGEST_S} s"
        answer: Measured | str = receiver.recv()
        return answer
    except EOFError:
        return "the process died; out of memory?"
    finally:
        process.kill()
        process.join()


def _answer(question: Question, sender: Connection) -> None:
    try:
        sender.send(measure(question))
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        sender.send(" ".join(str(error).split())[:300])


def _run(model: AnySR, lr: torch.Tensor, question: Question, size: tuple[int, int] | None) -> float:
    start = time.perf_counter()
    model(lr, question.scale, size, subnet=question.subnet)
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
    for line in sys.stdin:
        result = in_own_process(Question(**json.loads(line)))
        print(json.dumps(result if isinstance(result, str) else asdict(result)), flush=True)
