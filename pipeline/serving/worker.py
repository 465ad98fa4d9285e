"""A process that enlarges one image after the other, and can be stopped in the middle of one.

A thread cannot be stopped, and neither can a decoder busy with a hostile file; a process can. It
also keeps crashes of native code away from the replica, and runs jobs on its main thread, where the
decoders' own time limit works.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, Any

from anysr.amounts import show_seconds
from pipeline.serving.limits import ServiceLimits
from pipeline.serving.requests import Answer, Job, Refusal

_TIMED_OUT, _DIED = 504, 500


class Worker:
    """The process as its owner sees it; any thread may call, one job runs at a time.

    Args:
        model: as for ``anysr upscale --model``.
        device: of torch.
        limits: of each job.
    """

    def __init__(self, model: str, device: str, limits: ServiceLimits) -> None:
        self._setup, self._seconds = (model, device, limits), limits.seconds
        self._lock = threading.Lock()
        self._process = self._start()
        self._is_ready = False

    def enlarge(self, job: Job) -> Answer | Refusal:
        """Run a job to its end, or kill the process when its time is over."""
        with self._lock:
            if self._process.poll() is not None:
                self._restart()
            overdue = threading.Event()
            timer = threading.Timer(self._seconds, self._kill, [self._process, overdue])
            timer.start()
            try:
                return self._exchange(job)
            except (EOFError, OSError, pickle.UnpicklingError):
                self._restart()
                if overdue.is_set():
                    return refused_for_time(self._seconds)
                return Refusal(_DIED, "the process that enlarges died on this image, perhaps of too little memory")
            finally:
                timer.cancel()

    def stop(self) -> None:
        """Kill the process, and with it the job that it is at; another one is started for the next job."""
        self._process.kill()
        self._process.wait()

    def await_ready(self) -> None:
        """Return once the network is loaded."""
        if not self._is_ready:
            assert self._process.stdout is not None
            pickle.load(self._process.stdout)
            self._is_ready = True

    def _exchange(self, job: Job) -> Answer | Refusal:
        self.await_ready()
        assert self._process.stdin is not None and self._process.stdout is not None
        _send(self._process.stdin, job)
        received: Answer | Refusal = pickle.load(self._process.stdout)
        return received

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", __name__]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        _send(process.stdin, self._setup)
        return process

    def _restart(self) -> None:
        """At once, so that the network is being loaded before the next job comes."""
        self.stop()
        self._process, self._is_ready = self._start(), False

    @staticmethod
    def _kill(process: subprocess.Popen[bytes], overdue: threading.Event) -> None:
        overdue.set()
        process.kill()


def refused_for_time(seconds: float) -> Refusal:
    """What is said when a request's time is over."""
    return Refusal(_TIMED_OUT, f"not done within {show_seconds(seconds)}; enlarge less, or lower the budget")


def main() -> None:
    """The process itself: jobs on stdin, answers on stdout, until its owner is gone."""
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between answers
    from anysr.cli.models import open_device, open_model
    from anysr.upscaling import Upscaler
    from pipeline.serving.enlarge import answer

    model, device, limits = pickle.load(jobs)
    upscaler = Upscaler(open_model(model).model, open_device(device))
    _send(answers, "ready")
    with suppress(EOFError, BrokenPipeError):
        while True:
            _send(answers, answer(upscaler, limits, pickle.load(jobs)))


def _send(stream: IO[bytes], value: Any) -> None:
    pickle.dump(value, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()


if __name__ == "__main__":
    main()
