"""The training run as a story: restore, step, log, validate, save."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from anysr.fast_linear import has_fast_bf16
from pipeline.config import TrainingConfig
from pipeline.data.draws import Draw
from pipeline.data.photo_map import PhotoMap, Report, open_photo_map
from pipeline.data.photos import photo_folder
from pipeline.data.samples import Batch, StepBatches, batches_from
from pipeline.tracking.metric_log import MetricLog
from pipeline.train.context import Progress, WorkerContext
from pipeline.train.memory import keep_freed_memory
from pipeline.train.state import TrainState
from pipeline.train.step import learning_rate_at, train_step
from pipeline.train.validation import Score, metric_values, share_running_statistics, validate
from pipeline.train.warm_start import warm_start


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: steps done.
        finished: all of them; False when stopped on request.
        scores: the last validation.
    """

    step: int
    finished: bool
    scores: list[Score]


def train(config: TrainingConfig, context: WorkerContext, log: MetricLog, run_id: str | None) -> Outcome:
    """Train to the last step, or until asked to stop; every worker runs this."""
    keep_freed_memory()
    train_photos, validation_photos = open_photos(config)
    state = TrainState.fresh(config, context.device)
    state.run_id, state.photos = run_id, (train_photos.fingerprint, validation_photos.fingerprint)
    state.precision = _precision(config, context)
    with context.latest_checkpoint() as folder:
        if folder is not None:
            log.restore(state.restore(folder, config, context.show))
            workers = f" with {context.world_size} workers" if context.world_size > 1 else ""
            context.show(f"resuming at step {state.step}{workers}")
        elif config.train.init_from is not None:
            changes = warm_start(state.model, config.train.init_from, config.data.cache, config.data.cache_gb)
            otherwise = f"; other than there: {', '.join(changes)}" if changes else ""
            context.show(f"starting from the weights of {config.train.init_from}{otherwise}")
    if config.train.precision == "auto":
        context.show(f"train.precision=auto: {state.precision}, to the end of this run")
    how = config.train.model_copy(update={"precision": state.precision})
    model = context.wrap(state.model)
    dataset = StepBatches(train_photos, config, context.rank, context.world_size)
    meter = _Meter(config, context, log, state)
    for batches in batches_from(dataset, range(state.step, config.train.steps), config.data.loader_processes):
        loss = train_step(state, model, batches, how)
        meter.step_done(loss, batches)
        stopping = _stop_requested(state.step, config, context)
        if stopping:
            context.show("stopping: saving a checkpoint first")
        if _is_due(state.step, config.validation.every, config.train.steps):
            _validate(state, validation_photos, config, context, log)
            meter.restart()
        if stopping or _is_due(state.step, config.train.checkpoint_every, config.train.steps):
            state.watch.check()
            state.loss_windows = context.gather([meter.loss_window()])
            context.save_checkpoint(lambda folder: state.save(folder, config, log.pending()), state.step, state.scores)
            meter.restart()
        if stopping:
            break
    log.flush()
    scores = [Score(**score) for score in state.scores]
    return Outcome(state.step, state.step == config.train.steps, scores)


def open_photos(config: TrainingConfig, report: Report = lambda done, total: None) -> tuple[PhotoMap, PhotoMap]:
    """The photos to train on and to validate on, decoded; ``report`` is told how far that is."""
    data = config.data
    train, validation = (
        photo_folder(folder, split, data.cache, data.cache_gb)
        for folder, split in ((data.train, "train"), (data.validation, "validation"))
    )
    scored = "validation.scales" if config.validation.crop_px is None else "validation.crop_px"
    return (
        open_photo_map(train, data, config.hr_crop_px, report),
        open_photo_map(validation, data, config.validation_px, report, scored),
    )


def _precision(config: TrainingConfig, context: WorkerContext) -> str:
    """What the steps of a new run are computed in; for auto the workers agree on it."""
    if config.train.precision != "auto":
        return config.train.precision
    return "bfloat16" if all(context.gather([has_fast_bf16(context.device)])) else "float32"


def _is_due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def _stop_requested(step: int, config: TrainingConfig, context: WorkerContext) -> bool:
    """Whether any worker was asked to stop; several workers agree on it only when they log."""
    if context.world_size == 1:
        return context.should_stop()
    return step % config.train.log_every == 0 and any(context.gather([context.should_stop()]))


def _validate(
    state: TrainState, photos: PhotoMap, config: TrainingConfig, context: WorkerContext, log: MetricLog
) -> None:
    state.watch.check()
    model = state.best_model
    is_training = model.training
    share_running_statistics(model, context)
    scores = validate(model.eval(), photos, config, context)
    model.train(is_training)
    state.scores = [vars(score) for score in scores]
    log.add(state.step, metric_values(scores, config.validation))
    for score in scores:
        context.show(f"  validation at step {state.step}: {score.line()}")


def _drawn(draw: Draw, config: TrainingConfig) -> str:
    full = len(config.model.subnets) - 1
    subnets = "+".join("full" if index == full else str(index) for index in draw.subnets)
    return f"{draw.scale_text(2)} {subnets}"


class _Meter:
    """Measures pace and logs every ``log_every`` steps."""

    def __init__(self, config: TrainingConfig, context: WorkerContext, log: MetricLog, state: TrainState) -> None:
        self._config, self._context, self._log, self._state = config, context, log, state
        windows = state.loss_windows
        mine = windows[context.rank] if len(windows) == context.world_size else []
        self._losses = [torch.tensor(loss, device=context.device) for loss in mine]
        self._last_step = state.step
        self._since = time.perf_counter()
        self._seconds = 0.0

    def restart(self) -> None:
        """Leave out the time spent beside training."""
        self._since = time.perf_counter()

    def loss_window(self) -> list[float]:
        """This worker's losses since the last line, which a checkpoint carries along."""
        return [float(loss) for loss in self._losses]

    def step_done(self, loss: torch.Tensor, batches: Sequence[Batch]) -> None:
        """Count a step; log it if it is due."""
        step = self._state.step
        now = time.perf_counter()
        self._seconds += now - self._since
        self._since = now
        self._losses.append(loss)
        train = self._config.train
        if not _is_due(step, train.log_every, train.steps):
            return
        self._state.watch.check()
        mean = self._mean_loss()
        pace = (step - self._last_step) / max(self._seconds, 1e-9)
        images_per_s = pace * train.batch_size
        self._log.add(
            step,
            {
                "train/loss": mean,
                "train/learning_rate": learning_rate_at(step - 1, train),
                "train/images_per_s": images_per_s,
            },
        )
        eta = (train.steps - step) / pace
        drawn = [batch.draw for batch in batches]
        trained = _drawn(drawn[0], self._config) if len(drawn) == 1 else f"{len(drawn)} groups"
        self._context.show(Progress(step, train.steps, mean, trained, images_per_s, eta))
        self._last_step, self._seconds, self._losses = step, 0.0, []

    def _mean_loss(self) -> float:
        mine = float(torch.stack(self._losses).mean())
        everyone = self._context.gather([mine])
        return float(sum(everyone) / len(everyone))
