"""What is said of a file that is no network."""

from __future__ import annotations

from pathlib import Path

import pytest

import anysr


def refusal(path: Path) -> str:
    """The one line with which a file is refused, which names it."""
    with pytest.raises(ValueError) as caught:
        anysr.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message
