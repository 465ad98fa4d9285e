"""One optimisation step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.config import TrainConfig
from pipeline.data.samples import Batch
from pipeline.train.state import TrainState


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Learning rate of step ``step`` (from 0): linear warm-up, then the schedule."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "cosine":
        done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * cosine)
    if config.schedule == "multistep":
        passed = sum(step >= fraction * config.steps for fraction in config.milestones)
        return config.learning_rate * config.gamma**passed
    return config.learning_rate


def train_step(state: TrainState, model: nn.Module, batch: Batch, config: TrainConfig) -> Tensor:
    """Forward, backward and update on this worker's share of a batch.

    Args:
        state: advanced by one step.
        model: ``state.model`` as the worker context wrapped it.

    Returns:
        The loss of the share, a detached scalar: L1 in the networks' range [-1, 1].

    Raises:
        NonFiniteLossError: on the CPU before the weights are touched; on a GPU ``state.watch`` tells later.
    """
    device = next(state.model.parameters()).device
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate_at(state.step, config)
    state.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    for part, is_last in _parts(batch, config.accumulate):
        with _gradient_sync(model, is_last):
            loss = _loss(model, part, device, config.precision) / config.accumulate
            loss.backward()
        total += loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm or math.inf)
    state.watch.add(total, norm, batch, state.step)
    state.optimizer.step()
    if state.ema is not None:
        state.ema.update_parameters(state.model)
    state.step += 1
    return total


def _loss(model: nn.Module, batch: Batch, device: torch.device, precision: str) -> Tensor:
    lr = batch.lr.to(device, non_blocking=True).float() / 255
    target = batch.target.to(device, non_blocking=True).float() / 255
    coord = batch.coord.to(device, non_blocking=True)
    subnet = "full" if batch.draw.full_width else batch.draw.group
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        sr = model(lr, batch.draw.scale, (batch.hr_px, batch.hr_px), subnet=subnet, coord=coord)
    return 2 * (sr.float() - target).abs().mean()


def _parts(batch: Batch, count: int) -> Iterator[tuple[Batch, bool]]:
    size = len(batch.lr) // count
    for i in range(count):
        cut = slice(i * size, (i + 1) * size)
        part = Batch(batch.draw, batch.lr[cut], batch.coord[cut], batch.target[cut], batch.hr_px, batch.names[cut])
        yield part, i == count - 1


def _gradient_sync(model: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Workers exchange gradients once a step, with the last part."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not is_last else nullcontext()
