"""Everything a run needs to go on exactly where it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import anysr
from anysr import AnySR
from pipeline.config import OF_THE_NODE, TrainConfig, TrainingConfig
from pipeline.config_file import changed_keys, parse_config
from pipeline.errors import FatalError, UserError
from pipeline.train.finite import FiniteWatch

MODEL_FILE = "model.safetensors"
_STATE, _CONFIG = "state.pt", "config.yaml"


@dataclass
class TrainState:
    """What training changes.

    Attributes:
        model: the weights being trained.
        ema: their moving average, None without one.
        optimizer: holds the learning rate of the last step, which the schedule sets from ``step``.
        step: steps done; also the sampler's position, as batches are a function of it.
        scores: results of the last validation.
        loss_windows: each worker's losses since the last logged mean.
        run_id: the MLflow run.
        photos: fingerprints of those to train on and to validate on.
        precision: of this run's steps, "float32" or "bfloat16"; decided once, for all workers and machines.
        watch: the steps whose losses nobody has looked at yet.
    """

    model: AnySR
    ema: AveragedModel | None
    optimizer: torch.optim.Optimizer
    step: int = 0
    scores: list[dict[str, Any]] = field(default_factory=list)
    loss_windows: list[list[float]] = field(default_factory=list)
    run_id: str | None = None
    photos: tuple[str, str] | None = None
    precision: str = "float32"
    watch: FiniteWatch = field(default_factory=FiniteWatch)

    @classmethod
    def fresh(cls, config: TrainingConfig, device: torch.device) -> TrainState:
        """Newly initialised weights; the same for the same seed."""
        torch.manual_seed(config.train.seed)
        model = anysr.build(config.model).to(device)
        return cls(model, _moving_average(model, config.train.ema_decay), _optimizer(model, config.train))

    @property
    def best_model(self) -> AnySR:
        """The network to evaluate and ship: the moving average where there is one."""
        return self.model if self.ema is None else cast(AnySR, self.ema.module)

    def save(self, folder: Path, config: TrainingConfig, pending_metrics: list[Any]) -> None:
        """Write a checkpoint into an empty folder."""
        values = {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "scores": self.scores,
            "loss_windows": self.loss_windows,
            "run_id": self.run_id,
            "photos": self.photos,
            "precision": self.precision,
            "rng": _rng_states(),
            "pending_metrics": pending_metrics,
            "config": config.to_dict(),
        }
        torch.save(values, folder / _STATE)
        anysr.save(self.best_model, folder / MODEL_FILE)
        (folder / _CONFIG).write_text(config.to_yaml())

    def restore(
        self, folder: Path, config: TrainingConfig, say: Callable[[str], None] = lambda line: None
    ) -> list[Any]:
        """Take over a checkpoint; returns the metrics that the tracker had not sent by then.

        ``say`` is told each change since then that ``run.allow_changes`` lets pass.

        Raises:
            FatalError: the checkpoint is damaged, or the configuration or the photos have changed since.
        """
        values = read_checkpoint(folder)
        for change in (*check_unchanged(values["config"], config), *self._changed_photos(values.get("photos"), config)):
            say(f"changed since the checkpoint, as run.allow_changes permits: {change}")
        if config.train.precision == "auto":  # as the run began, whatever machine this is
            self.precision = values.get("precision", self.precision)
        self.model.load_state_dict(values["model"])
        if self.ema is not None and values["ema"] is not None:
            self.ema.load_state_dict(values["ema"])
        elif self.ema is not None:
            self.ema.module.load_state_dict(values["model"])
        options = [{**group, "params": None} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(values["optimizer"])
        for group, option in zip(self.optimizer.param_groups, options, strict=True):
            group.update({**option, "params": group["params"]})
        self.step, self.scores, self.run_id = values["step"], values["scores"], values["run_id"]
        self.loss_windows = values["loss_windows"]
        if self.step > config.train.steps:
            raise FatalError(
                f"the run has done {self.step} steps already; train.steps must be more, got {config.train.steps}"
            )
        _restore_rng(values["rng"])
        pending: list[Any] = values["pending_metrics"]
        return pending

    def _changed_photos(self, before: tuple[str, str] | None, config: TrainingConfig) -> list[str]:
        if before is None or self.photos is None:
            return []
        kinds = ("to train on", "to validate on")
        changed = [kind for kind, old, new in zip(kinds, before, self.photos, strict=True) if old != new]
        if changed and not config.run.allow_changes:
            raise FatalError(
                f"the photos {changed[0]} are not those that the run {config.run.name!r} was started with; bring those "
                "back, choose a new run.name, or set run.allow_changes=true to go on with these"
            )
        return [f"the photos {kind} are others" for kind in changed]


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """A checkpoint's plain values and tensors, on the CPU; runs no code from the file."""
    path = folder / _STATE
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise FatalError(
            f"the checkpoint {path} is damaged ({type(error).__name__}); remove its folder to resume from "
            "the one before"
        ) from error
    return values


def check_unchanged(before: dict[str, Any], config: TrainingConfig) -> list[str]:
    """Refuse to resume with another configuration, unless it says so; returns what it lets pass then.

    Only what cannot change the weights may differ in silence: places of the run and of its photos, Ray and tracking.
    """
    changes = decisive_changes(before, config)
    if any(change.startswith("model.") for change in changes) and config.run.allow_changes:
        raise FatalError(
            f"the run {config.run.name!r} has another network ({'; '.join(changes)}); choose a new run.name"
        )
    if changes and not config.run.allow_changes:
        raise FatalError(
            f"the run {config.run.name!r} was started with another configuration ({'; '.join(changes)}); choose a new "
            "run.name, or set run.allow_changes=true to go on with the new values"
        )
    return changes


def decisive_changes(before: dict[str, Any], config: TrainingConfig) -> list[str]:
    """What of an earlier configuration is another now and can change the weights, as ``key: old -> new``."""
    return changed_keys(_decisive(_with_defaults(before)), _decisive(config.to_dict()))


def _with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration of an earlier version with the keys that came since then."""
    try:
        return parse_config(values).to_dict()
    except UserError:
        return {**{section: {} for section in TrainingConfig.model_fields}, **values}


def _decisive(values: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration can change the weights."""
    decisive = {key: section for key, section in values.items() if key not in ("run", "ray", "tracking")}
    # The photos themselves are compared by their contents, wherever they lie.
    places = ("train", "validation", *OF_THE_NODE)
    decisive["data"] = {key: value for key, value in values["data"].items() if key not in places}
    # Read once, at the start: on another machine the file may lie elsewhere, or be gone.
    decisive["train"] = values["train"] | {"init_from": Path(values["train"].get("init_from") or "").name}
    decisive["train"].pop("cuda_graphs", None)  # the same kernels
    return decisive


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    # One pass over all weights: a network of many small ones spends 3 ms a step on Adam tensor by tensor.
    return kind(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


class _MovingAverage(AveragedModel):
    """Torch's, but the count of updates stays on the CPU: torch sends it to the GPU at every step, and waits.

    The decay of the n-th update (from 0) is at most (1 + n) / (10 + n): a short run would else end on little but
    its first weights.
    """

    def __init__(self, model: AnySR, decay: float) -> None:
        super().__init__(model)
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        count = int(self.n_averaged)
        share = 1 - min(self._decay, (1 + count) / (10 + count))
        torch._foreach_lerp_(list(self.module.parameters()), list(model.parameters()), share)
        for average, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
        self.n_averaged += 1


def _moving_average(model: AnySR, decay: float | None) -> AveragedModel | None:
    return None if decay is None else _MovingAverage(model, decay)


def _rng_states() -> dict[str, Any]:
    """Torch's alone: nothing else draws from a global generator."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore_rng(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
