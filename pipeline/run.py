"""A training run from start to finish, as its driver sees it: check, train, publish."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

import anysr
from anysr import AnySR
from pipeline.config import RunConfig, TrainingConfig
from pipeline.data.photo_map import PhotoMap
from pipeline.data.photos import Pixels
from pipeline.errors import UserError
from pipeline.evaluate import central_crop
from pipeline.files import held, write_text
from pipeline.report import SCORES_FILE, print_table, write_pictures, write_scores
from pipeline.tracking.metric_log import MetricLog
from pipeline.tracking.tracker import SinkSpec, Tracker, open_tracker
from pipeline.tracking.versions import VersionFacts
from pipeline.train.loop import Outcome, open_photos
from pipeline.train.state import MODEL_FILE, check_unchanged


@dataclass(frozen=True)
class Fitted:
    """What a way of training hands back.

    Attributes:
        outcome: how it ended.
        checkpoint: a folder with the last checkpoint.
    """

    outcome: Outcome
    checkpoint: Path


Fit = Callable[[TrainingConfig, SinkSpec], Fitted]

_INTERRUPTED = 130
_CONFIG_FILE = "config.yaml"


def run_training(config: TrainingConfig, fit: Fit) -> int:
    """Train with ``fit``, then write, log and register the results; returns the exit code."""
    config = _placed(config)
    model = anysr.build(config.model)
    photos = open_photos(config)
    folder = _prepare_storage(config, model)
    with held(folder, f"the run {config.run.name!r}"):
        return _run(config, model, photos, folder, fit)


def _run(config: TrainingConfig, model: AnySR, photos: tuple[PhotoMap, PhotoMap], folder: Path, fit: Fit) -> int:
    recorded = folder / _CONFIG_FILE
    if recorded.exists():
        check_unchanged(yaml.safe_load(recorded.read_text()), config)
    if _finished(config, folder):
        print(f"run {config.run.name} is finished: {folder}; choose another run.name to train again")
        return 0
    write_text(recorded, config.to_yaml())
    tracker = open_tracker(config, folder, _in_ray_job())
    status = "FAILED"
    try:
        _announce(config, model, photos, folder, tracker)
        _log_costs(model, config, tracker.sink)
        with tracker.system_metrics():
            fitted = fit(config, tracker.sink)
        if not fitted.outcome.finished:
            status = "KILLED"
            print(f"stopped at step {fitted.outcome.step}; go on with the same command and run.name={config.run.name}")
            return _INTERRUPTED
        _publish(config, fitted, photos, folder, tracker)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.end(status)
    return 0


def _placed(config: TrainingConfig) -> TrainingConfig:
    """The configuration with the run's name and absolute storage filled in."""
    if _in_ray_job() and not Path(config.run.storage).is_absolute():
        raise UserError(
            f"run.storage is {config.run.storage!r}, which a Ray job would lose with its working folder; give an "
            "absolute path that every node reaches"
        )
    name = config.run.name or f"anysr-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    if "://" in config.run.storage:
        raise UserError(
            f"run.storage must be a folder, got {config.run.storage!r}; give a path that every node reaches"
        )
    storage = str(Path(config.run.storage).expanduser().resolve())
    run = RunConfig(name=name, storage=storage, allow_changes=config.run.allow_changes)
    return config.model_copy(update={"run": run, "data": config.data.resolved(), "train": config.train.resolved()})


def _in_ray_job() -> bool:
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _prepare_storage(config: TrainingConfig, model: AnySR) -> Path:
    """The run's folder, shown to be writable and to have room for the checkpoints."""
    folder = Path(config.run.storage) / str(config.run.name)
    mend = "choose another run.storage"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UserError(f"cannot write to run.storage {folder} ({error.strerror}); {mend}") from error
    # Weights, moving average, two Adam moments and the model file, while one more is being written.
    weights = sum(4 * p.numel() for p in model.parameters())
    needed = 5 * weights * (config.ray.keep_checkpoints + 1) + 8_000_000
    if free < needed:
        raise UserError(
            f"run.storage {folder} has {free / 1e6:.0f} MB free, but the checkpoints need {needed / 1e6:.0f} MB; free "
            f"some space, lower ray.keep_checkpoints, or {mend}"
        )
    return folder


def _finished(config: TrainingConfig, folder: Path) -> bool:
    scores = folder / SCORES_FILE
    return scores.exists() and bool(json.loads(scores.read_text())["step"] == config.train.steps)


def _announce(
    config: TrainingConfig, model: AnySR, photos: tuple[PhotoMap, PhotoMap], folder: Path, tracker: Tracker
) -> None:
    encoder, decoder = config.model.encoder.kind.upper(), config.model.decoder.kind.upper()
    print(f"run {config.run.name} in {folder}")
    print(f"network: {encoder} + {decoder}, {sum(p.numel() for p in model.parameters()):,} parameters")
    for subnet in model.subnets:
        low, high = subnet.scales
        print(
            f"  subnet {subnet.index}: ×{low:g}–{high:g}, {subnet.encoder_channels} encoder and "
            f"{subnet.decoder_channels} decoder channels"
        )
    if config.factor is not None:
        print(f"  this network enlarges ×{config.factor} only: validation.scales is not used")
    print(f"photos: {len(photos[0])} to train, {len(photos[1])} to validate")
    for line in (*photos[0].skipped, *photos[1].skipped):
        print(f"  skipped: {line}")
    print(tracker.describe(), flush=True)


def _log_costs(model: AnySR, config: TrainingConfig, sink: SinkSpec) -> None:
    """Multiply-adds of each scale's own subnet and of the full network, for a 256 x 256 input."""
    values: dict[str, float] = {}
    for scale in config.scales:
        own, full = (anysr.cost(model, (256, 256), scale, subnet) for subnet in ("auto", "full"))
        values |= {f"cost/x{scale:g}/gmacs": own.macs / 1e9, f"cost/x{scale:g}/gmacs_full": full.macs / 1e9}
    for subnet in model.subnets:
        one = anysr.cost(model, (256, 256), config.factor or subnet.scales[0], subnet.index)
        values |= {
            f"cost/subnet{subnet.index}/gmacs": one.macs / 1e9,
            f"cost/subnet{subnet.index}/params": float(one.params),
        }
    log = MetricLog(sink.open())
    log.add(0, values)
    log.flush()
    log.close()


@dataclass(frozen=True)
class _Cropped:
    """The part of each validation photo that was scored."""

    photos: PhotoMap
    side_px: int | None

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Pixels:
        return central_crop(self.photos[index], self.side_px)


def _publish(
    config: TrainingConfig, fitted: Fitted, photos: tuple[PhotoMap, PhotoMap], folder: Path, tracker: Tracker
) -> None:
    model_file = folder / MODEL_FILE
    model = anysr.load(fitted.checkpoint / MODEL_FILE)
    anysr.save(model, model_file)
    suite, scores = config.validation.suite, fitted.outcome.scores
    shown = (2.0, 3.0, 4.0) if config.factor is None else config.scales
    pictures = write_pictures(folder, model, _Cropped(photos[1], config.validation.crop_px), scores, suite, shown)
    with TemporaryDirectory() as temporary:
        scores_file = write_scores(Path(temporary), scores, suite, fitted.outcome.step)
        attached = [folder / _CONFIG_FILE, model_file, scores_file, *pictures]
        facts = VersionFacts(photos[0].fingerprint, photos[1].fingerprint, _CONFIG_FILE, SCORES_FILE, scores)
        registered = tracker.publish(model_file, fitted.checkpoint, attached, facts)
    write_scores(folder, scores, suite, fitted.outcome.step)  # last: marks the run as finished
    print_table(scores, suite)
    print(f"model:      {model_file}")
    print(f"pictures:   {', '.join(map(str, pictures))}")
    print(f"registered: {registered}")
    print(f"tracked:    {tracker.describe()}", flush=True)
