"""What several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded photos go to a folder of the test session, not to the user's."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("ANYSR_CACHE", str(cache))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of benchmark images and released checkpoints beside the checkout."""
    folder = Path(os.environ.get("ANYSR_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no benchmark images and released checkpoints at {folder}")
    return folder
