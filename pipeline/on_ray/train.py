"""Training with Ray Train workers."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Read by Ray when it is imported or started; workers inherit them from the driver.
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from pipeline.config import TrainingConfig
from pipeline.config_file import parse_config
from pipeline.errors import FatalError, UserError, one_line
from pipeline.on_ray.connect import init_ray
from pipeline.on_ray.context import RayContext
from pipeline.on_ray.progress import shown_progress
from pipeline.on_ray.s3_filesystem import s3_filesystem
from pipeline.run import Fitted
from pipeline.storage.cache import local_folder
from pipeline.storage.places import S3Uri, parse_place
from pipeline.storage.transfer import exists
from pipeline.tracking.metric_log import MetricLog
from pipeline.tracking.tracker import SinkSpec
from pipeline.train.checkpoints import CHECKPOINTS
from pipeline.train.finite import OneWorkerError
from pipeline.train.loop import Outcome, train
from pipeline.train.stopping import on_stop_signals

_CONTROLLER_FAILURES = 3
# A lost node is believed to be there for half a minute, and each start that waits for it in vain counts as a failure.
_PATIENCE_S = 180.0


def fit_on_ray(config: TrainingConfig, sink: SinkSpec, callbacks: Sequence[UserCallback] = ()) -> Fitted:
    """Train on the cluster that RAY_ADDRESS names, or on one started for this process.

    A run of the same name goes on from its latest checkpoint. ``callbacks`` hear of its reports.

    Raises:
        UserError: too few resources, or what the workers raised once restarts were used up.
    """
    if exists(parse_place(config.run.storage) / str(config.run.name) / CHECKPOINTS):
        raise UserError(f"the run {config.run.name!r} was started with --local: go on so, or choose a new run.name")
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(config.ray.start_timeout_s)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    if not ray.is_initialized():
        init_ray()
    check_resources(config)
    with shown_progress(config.train.steps) as mailbox:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"config": config.to_dict(), "sink": sink, "mailbox": mailbox},
            scaling_config=_scaling(config),
            torch_config=TorchConfig(backend="nccl" if config.ray.use_gpu else "gloo"),
            run_config=_run_config(config, callbacks),
        )
        try:
            with _stopping_on_signals(mailbox):
                result = trainer.fit()
        except TrainingFailedError as error:
            raise UserError(_reason(error)) from error
    answer = result.return_value
    if isinstance(answer, str):
        raise FatalError(answer)
    assert isinstance(answer, Outcome) and result.checkpoint is not None
    on_s3 = isinstance(parse_place(config.run.storage), S3Uri)
    return Fitted(answer, local_folder(f"s3://{result.checkpoint.path}" if on_s3 else result.checkpoint.path))


@contextmanager
def _stopping_on_signals(mailbox: Any) -> Iterator[None]:
    """The first signal: the workers save and stop. The second: the driver ends at once, and they with it.

    A terminal that is closed may send SIGHUP twice: by itself and by its shell.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # a search's trial, whose driver is not ours to stop
        return

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        mailbox.stop.remote()
        if number != signal.SIGHUP:
            restore()

    with on_stop_signals(stop) as restore:
        yield


def _worker(arguments: dict[str, Any]) -> Outcome | str:
    """Runs in each worker; a fatal error is returned, because raising it would restart the workers."""
    config = parse_config(arguments["config"])
    sink: SinkSpec = arguments["sink"]
    torch.set_num_threads(config.ray.cpus_per_worker)
    context = RayContext(arguments["mailbox"])
    log = MetricLog(sink.open() if context.rank == 0 else None)
    try:
        return train(config, context, log, sink.run_id)
    except FatalError as error:
        if isinstance(error, OneWorkerError) and context.world_size > 1:
            raise  # ends the others too, which would wait for this one
        return one_line(error)
    finally:
        log.close()


def _scaling(config: TrainingConfig) -> ScalingConfig:
    elastic = (
        {}
        if isinstance(config.ray.num_workers, int)
        else {"elastic_resize_monitor_interval_s": config.ray.resize_every_s}
    )
    return ScalingConfig(
        num_workers=config.ray.num_workers,
        **elastic,
        use_gpu=config.ray.use_gpu,
        resources_per_worker=resources_per_worker(config),
    )


def resources_per_worker(config: TrainingConfig) -> dict[str, float]:
    """What Ray sets aside for each worker."""
    gpu = {"GPU": 1.0} if config.ray.use_gpu else {}
    return {"CPU": float(config.ray.cpus_per_worker), **gpu}


def _run_config(config: TrainingConfig, callbacks: Sequence[UserCallback]) -> RunConfig:
    path, filesystem = ray_storage(config)
    return RunConfig(
        name=config.run.name,
        storage_path=path,
        storage_filesystem=filesystem,
        failure_config=FailureConfig(
            max_failures=config.ray.max_failures,
            controller_failure_limit=max(_CONTROLLER_FAILURES, math.ceil(_PATIENCE_S / config.ray.start_timeout_s)),
        ),
        checkpoint_config=CheckpointConfig(num_to_keep=config.ray.keep_checkpoints),
        callbacks=list(callbacks),
    )


def ray_storage(config: TrainingConfig) -> tuple[str, Any]:
    """``run.storage`` as Ray takes it: a path, and the file system that it is a path of; None is the usual ones."""
    storage = parse_place(config.run.storage)
    on_s3 = isinstance(storage, S3Uri)
    return str(storage).removeprefix("s3://"), s3_filesystem() if on_s3 else None


def check_resources(config: TrainingConfig) -> None:
    """Ray would wait for resources that never come."""
    have = ray.cluster_resources()
    for kind, each in resources_per_worker(config).items():
        needed = each * config.ray.fewest_workers
        if have.get(kind, 0) < needed:
            raise UserError(
                f"the cluster has {have.get(kind, 0):g} {kind}, but {config.ray.fewest_workers} workers need "
                f"{needed:g}; lower ray.num_workers or ray.cpus_per_worker, or add nodes"
            )


def _reason(error: TrainingFailedError) -> str:
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    for rank, failure in sorted(failures.items()):
        return f"training failed on worker {rank}: {type(failure).__name__}: {one_line(failure)[:1500]}"
    return one_line(error)[:1500]
