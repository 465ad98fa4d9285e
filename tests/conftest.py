"""What several test modules share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other
if not torch.cuda.is_available():  # before anything imports Triton, which decides then
    os.environ["TRITON_INTERPRET"] = "1"

# A shell starts what it puts into the background with Ctrl-C switched off, nohup with what a closed terminal sends, and
# every process below inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded photos go to a folder of the test session, not to the user's."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("ANYSR_CACHE", str(cache))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


SHARED = Path(os.environ.get("ANYSR_SHARED", ROOT.parent / "shared"))
_ON_SHARED = ("looked at", "shared")  # in a report's properties, which the processes of a parallel run send too
_reports = {"on shared": 0}


@pytest.fixture
def shared(request: pytest.FixtureRequest) -> Path:
    """The folder of benchmark images and released checkpoints beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"no benchmark images and released checkpoints at {SHARED}")
    request.node.user_properties.append(_ON_SHARED)
    return SHARED


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and not report.skipped:
        _reports["on shared"] += _ON_SHARED in map(tuple, report.user_properties)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI, images that are there but that no test of the main suite looked at mean that the tests lost them."""
    if hasattr(session.config, "workerinput"):
        return  # one process of several: the first one has all the reports
    whole = session.config.args_source == pytest.Config.ArgsSource.TESTPATHS
    if (
        os.environ.get("CI")
        and whole
        and SHARED.is_dir()
        and not _reports["on shared"]
        and exitstatus == pytest.ExitCode.OK
    ):
        print(f"{SHARED} is present, but no test ran on it")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
