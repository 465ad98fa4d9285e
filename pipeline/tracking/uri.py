"""Where MLflow is, for what gets by without MLflow itself."""

from __future__ import annotations

import os
from pathlib import Path


def uri_or_default(given: str | None, folder: Path = Path()) -> str:
    """``given``, else $MLFLOW_TRACKING_URI, else the database mlflow.db in ``folder``."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve()}/mlflow.db"


def local_database(uri: str) -> Path | None:
    """The SQLite file behind a tracking URI, if it is one."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
