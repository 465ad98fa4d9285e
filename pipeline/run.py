"""A training run from start to finish, as its driver sees it: check, train, publish."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

import anysr
from anysr import AnySR
from pipeline.config import RunConfig, TrainingConfig
from pipeline.data.photo_map import PhotoMap, trained_on
from pipeline.data.photos import Pixels
from pipeline.data.progress import shown_progress
from pipeline.errors import FatalError, UserError
from pipeline.on_ray.submit import in_ray_job
from pipeline.output import outlasting_readers
from pipeline.report import SCORES_FILE, print_table, write_pictures, write_scores
from pipeline.run_folder import CONFIG_FILE, RunFolder
from pipeline.storage.places import S3Uri, parse_place
from pipeline.storage.transfer import exists
from pipeline.tracking.metric_log import MetricLog
from pipeline.tracking.tracker import SinkSpec, Tracker, open_tracker
from pipeline.tracking.versions import VersionFacts
from pipeline.train.checkpoints import has_checkpoints
from pipeline.train.loop import Outcome, open_photos
from pipeline.train.state import MODEL_FILE, check_unchanged, decisive_changes
from pipeline.train.validation import central_crop, in_words


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


@outlasting_readers()
def run_training(config: TrainingConfig, fit: Fit) -> int:
    """Train with ``fit``, then write, log and register the results; returns the exit code."""
    config = placed(config)
    model = anysr.build(config.model)
    with shown_progress("decoding", "photos") as report:
        photos = open_photos(config, report)
    folder = RunFolder(config.run.storage, str(config.run.name), config.data.cache)
    folder.prepare(_checkpoint_bytes(config, model))
    with folder.held(f"the run {config.run.name!r}"):
        return _run(config, model, photos, folder, fit)


def _run(config: TrainingConfig, model: AnySR, photos: tuple[PhotoMap, PhotoMap], folder: RunFolder, fit: Fit) -> int:
    folder.keep_to("training run")
    recorded, scores = _read(folder, CONFIG_FILE, yaml.safe_load), _read(folder, SCORES_FILE, json.loads)
    saved, ended = has_checkpoints(folder.place), scores is not None or exists(folder.place / MODEL_FILE)
    if recorded is not None and (saved or ended):
        check_unchanged(recorded, config)
    if scores is not None and scores.get("step") == config.train.steps:
        print(f"run {config.run.name} is finished: {folder.place}; choose another run.name to train again")
        return 0
    if ended and not saved:
        raise UserError(
            f"the checkpoints of the run {config.run.name!r}, which has ended, are gone: it would start at step 0 and "
            "overwrite its model and scores; bring them back to go on, or choose a new run.name with train.init_from="
            f"{folder.place / MODEL_FILE}"
        )
    # A start that got to no checkpoint has nothing to go on with: what it left is replaced where it was another run's.
    anew = recorded is not None and not saved and bool(decisive_changes(recorded, config))
    tracker = open_tracker(config, folder.place, in_ray_job(), anew=anew)
    return _train_and_publish(config, model, photos, folder, tracker, fit, recorded if saved else None)


@contextmanager
def _recorded(config: TrainingConfig, before: dict[str, Any] | None, folder: RunFolder) -> Iterator[None]:
    """Record the configuration; where it cannot be gone on with, put back the one that the checkpoints are of."""
    folder.write(CONFIG_FILE, config.to_yaml())
    try:
        yield
    except FatalError:
        if before is not None:
            folder.write(CONFIG_FILE, yaml.safe_dump(before, sort_keys=False))
        raise


def _train_and_publish(
    config: TrainingConfig, model: AnySR, photos: tuple[PhotoMap, PhotoMap], folder: RunFolder, tracker: Tracker,
    fit: Fit, before: dict[str, Any] | None,
) -> int:  # fmt: skip
    status = "FAILED"
    try:
        with _recorded(config, before, folder):
            _announce(config, model, photos, folder, tracker)
            _log_costs(model, config, tracker.sink)
            with tracker.system_metrics():
                fitted = fit(config, tracker.sink)
            if not fitted.outcome.finished:
                status = "KILLED"
                print(
                    f"stopped at step {fitted.outcome.step}; go on with the same command and run.name={config.run.name}"
                )
                return _INTERRUPTED
            _publish(config, fitted, photos, folder, tracker)
            status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.end(status)
    return 0


def placed(config: TrainingConfig) -> TrainingConfig:
    """The configuration with the run's name and absolute storage filled in."""
    place = parse_place(config.run.storage)
    if in_ray_job() and isinstance(place, Path) and not place.is_absolute():
        raise UserError(
            f"run.storage is {config.run.storage!r}, which a Ray job would lose with its working folder; give an "
            "absolute path that every node reaches, or s3://bucket/prefix"
        )
    name = config.run.name or f"anysr-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    storage = str(place if isinstance(place, S3Uri) else place.expanduser().resolve())
    run = RunConfig(name=name, storage=storage, allow_changes=config.run.allow_changes)
    return config.model_copy(update={"run": run, "data": config.data.resolved(), "train": config.train.resolved()})


def _checkpoint_bytes(config: TrainingConfig, model: AnySR) -> int:
    """Weights, moving average, two Adam moments and the model file, while one more is being written."""
    weights = sum(4 * p.numel() for p in model.parameters())
    return 5 * weights * (config.ray.keep_checkpoints + 1) + 8_000_000


def _read(folder: RunFolder, name: str, parse: Callable[[str], Any]) -> dict[str, Any] | None:
    """One of the records of a run; both can be made again from its checkpoints."""
    try:
        text = folder.read(name)
        values = {} if text is None else parse(text)
    except (ValueError, yaml.YAMLError):
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{folder.place}/{name} is damaged; remove it, and submit the run again: it will be made anew")
    return None if text is None else values


def _announce(
    config: TrainingConfig, model: AnySR, photos: tuple[PhotoMap, PhotoMap], folder: RunFolder, tracker: Tracker
) -> None:
    encoder, decoder = config.model.encoder.kind.upper(), config.model.decoder.kind.upper()
    print(f"run {config.run.name} in {folder.place}")
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
    for kind, one in zip(("train on", "validate on"), photos, strict=True):
        print(f"  to {kind}: {one.photos}")
    for line in (*photos[0].skipped, *photos[1].skipped):
        print(f"  skipped: {line}")
    for line in _remarks(config, photos):
        print(line)
    print(tracker.describe(), flush=True)


def _remarks(config: TrainingConfig, photos: tuple[PhotoMap, PhotoMap]) -> Iterator[str]:
    """What is likely not meant."""
    if (overlap := trained_on(*photos)) is not None:
        yield overlap
    if config.train.warmup_steps >= config.train.steps:
        yield (
            f"warning: train.warmup_steps {config.train.warmup_steps} leaves nothing of train.steps "
            f"{config.train.steps} for train.schedule; the learning rate rises to the end"
        )


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
    config: TrainingConfig, fitted: Fitted, photos: tuple[PhotoMap, PhotoMap], folder: RunFolder, tracker: Tracker
) -> None:
    model_file = folder.local / MODEL_FILE
    model = anysr.load(fitted.checkpoint / MODEL_FILE)
    anysr.save(model, model_file)
    validation, scores = config.validation, fitted.outcome.scores
    shown = (2.0, 3.0, 4.0) if config.factor is None else config.scales
    pictures = write_pictures(folder.local, model, _Cropped(photos[1], validation.crop_px), scores, validation, shown)
    with TemporaryDirectory() as temporary:
        scores_file = write_scores(Path(temporary), scores, validation, fitted.outcome.step)
        attached = [folder.local / CONFIG_FILE, model_file, scores_file, *pictures]
        facts = VersionFacts(
            photos[0].fingerprint, photos[1].fingerprint, CONFIG_FILE, SCORES_FILE,
            {score.scale: score.own for score in scores}, in_words(validation),
        )  # fmt: skip
        registered = tracker.publish(model_file, fitted.checkpoint, attached, facts)
    folder.send(model_file, *pictures)
    # Last: marks the run as finished.
    folder.send(write_scores(folder.local, scores, validation, fitted.outcome.step))
    print_table(scores, validation)
    print(f"model:      {folder.shown(model_file)}")
    print(f"pictures:   {', '.join(map(folder.shown, pictures))}")
    print(f"registered: {registered}")
    print(f"tracked:    {tracker.describe()}", flush=True)
