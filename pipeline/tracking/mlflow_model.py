"""The finished network as an MLflow model: pyfunc from code, registered."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

import anysr
from pipeline.files import sha256
from pipeline.tracking.mlflow_run import with_password

_FILE_TAG = "anysr.sha256"
_HERE = Path(__file__).parent
_REQUIREMENTS = ("numpy", "safetensors", "torch")


def register(model_file: Path, factor: int | None, uri: str, run_id: str, name: str, tags: dict[str, str]) -> str:
    """Log a model file to a run and register it with tags; returns its version.

    The result needs neither this repository nor Ray: the library's code travels with it. MLflow
    itself keeps the alias ``latest`` on the newest version and lets nobody set it. A file that the run has
    registered before, and was then interrupted, is not registered again.

    Args:
        model_file: a file of :func:`anysr.save`.
        factor: the only enlargement that its network makes, see ``ModelConfig.fixed_factor``.
        uri: the server's.
        run_id: of the run.
        name: of the registered model.
        tags: of the version.
    """
    mlflow.set_tracking_uri(with_password(uri))
    tags = tags | {_FILE_TAG: sha256(model_file)}
    for version in mlflow.MlflowClient().search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        if version.tags.get(_FILE_TAG) == tags[_FILE_TAG]:
            return str(version.version)
    scale = float(factor or 2)  # where none is asked for; as in ``pyfunc_upscaler``, which stands alone
    with mlflow.start_run(run_id=run_id):
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(_HERE / "pyfunc_upscaler.py"),
            artifacts={"model": str(model_file)},
            code_paths=[str(Path(anysr.__file__).parent)],
            signature=_signature(scale),
            input_example=(np.zeros((1, 3, 8, 8), np.float32), {"scale": scale, "subnet": "auto"}),
            pip_requirements=[f"{package}=={_version(package)}" for package in _REQUIREMENTS],
        )
    return str(mlflow.register_model(info.model_uri, name, tags=tags).version)


def _signature(scale: float) -> ModelSignature:
    images = Schema([TensorSpec(np.dtype(np.float32), (-1, 3, -1, -1))])
    params = ParamSchema([ParamSpec("scale", "double", scale), ParamSpec("subnet", "string", "auto")])
    return ModelSignature(inputs=images, outputs=images, params=params)


def _version(package: str) -> str:
    # A local build tag (+cpu) names no version that can be installed.
    return importlib.metadata.version(package).split("+")[0]
