"""Run by MLflow when it loads the model: needs the ``anysr`` package and torch, nothing else of ours."""

from __future__ import annotations

import warnings

import mlflow
import numpy as np
import torch
from mlflow.pyfunc.model import PythonModel, PythonModelContext

import anysr

# As the class is made, MLflow asks for type hints in place of the signature that the model has.
with warnings.catch_warnings(record=True):

    class Upscaler(PythonModel):
        """(N, 3, h, w) float32 RGB in [0, 1] to (N, 3, H, W), clamped."""

        def load_context(self, context: PythonModelContext) -> None:
            self._model = anysr.load(context.artifacts["model"])

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            """Enlarge by ``params["scale"]`` with ``params["subnet"]`` ("auto", "full" or an index).

            Without a scale it is 2, or the only factor that the network has.
            """
            given = {"scale": self._model.config.fixed_factor or 2, "subnet": "auto", **(params or {})}
            subnet = int(given["subnet"]) if str(given["subnet"]).isdigit() else given["subnet"]
            lr = torch.from_numpy(np.asarray(model_input, dtype=np.float32))
            with torch.inference_mode():
                sr = self._model(lr, float(given["scale"]), subnet=subnet)
            return sr.clamp(0, 1).numpy()


mlflow.models.set_model(Upscaler())
