"""Training with Ray Train workers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Read by Ray when it is imported or started; workers inherit them from the driver.
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from pipeline.config import TrainingConfig, parse_config
from pipeline.errors import FatalError, UserError, one_line
from pipeline.on_ray.context import RayContext
from pipeline.on_ray.progress import shown_progress
from pipeline.run import Fitted
from pipeline.tracking.metric_log import MetricLog
from pipeline.tracking.tracker import SinkSpec
from pipeline.train.checkpoints import CHECKPOINTS
from pipeline.train.finite import OneWorkerError
from pipeline.train.loop import Outcome, train

_CONTROLLER_FAILURES = 3


def fit_on_ray(config: TrainingConfig, sink: SinkSpec, callbacks: Sequence[UserCallback] = ()) -> Fitted:
    """Train on the cluster that RAY_ADDRESS names, or on one started for this process.

    A run of the same name goes on from its latest checkpoint. ``callbacks`` hear of its reports.

    Raises:
        UserError: too few resources, or what the workers raised once restarts were used up.
    """
    if (Path(config.run.storage) / str(config.run.name) / CHECKPOINTS).exists():
        raise UserError(f"the run {config.run.name!r} was started with --local: go on so, or choose a new run.name")
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(config.ray.start_timeout_s)
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="warning")
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
            result = trainer.fit()
        except TrainingFailedError as error:
            raise UserError(_reason(error)) from error
    answer = result.return_value
    if isinstance(answer, str):
        raise UserError(answer)
    assert isinstance(answer, Outcome) and result.checkpoint is not None
    return Fitted(answer, Path(result.checkpoint.path))


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
    return ScalingConfig(
        num_workers=config.ray.num_workers,
        use_gpu=config.ray.use_gpu,
        resources_per_worker=resources_per_worker(config),
    )


def resources_per_worker(config: TrainingConfig) -> dict[str, float]:
    """What Ray sets aside for each worker."""
    gpu = {"GPU": 1.0} if config.ray.use_gpu else {}
    return {"CPU": float(config.ray.cpus_per_worker), **gpu}


def _run_config(config: TrainingConfig, callbacks: Sequence[UserCallback]) -> RunConfig:
    return RunConfig(
        name=config.run.name,
        storage_path=config.run.storage,
        failure_config=FailureConfig(
            max_failures=config.ray.max_failures, controller_failure_limit=_CONTROLLER_FAILURES
        ),
        checkpoint_config=CheckpointConfig(num_to_keep=config.ray.keep_checkpoints),
        callbacks=list(callbacks),
    )


def check_resources(config: TrainingConfig) -> None:
    """Ray would wait for resources that never come."""
    have = ray.cluster_resources()
    for kind, each in resources_per_worker(config).items():
        needed = each * config.ray.num_workers
        if have.get(kind, 0) < needed:
            raise UserError(
                f"the cluster has {have.get(kind, 0):g} {kind}, but {config.ray.num_workers} workers need {needed:g}; "
                "lower ray.num_workers or ray.cpus_per_worker, or add nodes"
            )


def _reason(error: TrainingFailedError) -> str:
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    for rank, failure in sorted(failures.items()):
        return f"training failed on worker {rank}: {type(failure).__name__}: {one_line(failure)[:1500]}"
    return one_line(error)[:1500]
