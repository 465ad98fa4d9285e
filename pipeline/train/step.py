"""One optimisation step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
    if config.schedule == "trapezoid":
        left = (config.steps - step) / (config.cooldown * config.steps)
        return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * min(1.0, left))
    if config.schedule == "multistep":
        passed = sum(step >= fraction * config.steps for fraction in config.milestones)
        return config.learning_rate * config.gamma**passed
    return config.learning_rate


def train_step(state: TrainState, model: nn.Module, batches: Sequence[Batch], config: TrainConfig) -> Tensor:
    """Forward, backward and one update on this worker's share of a batch, each part through its draw's subnets.

    Args:
        state: advanced by one step.
        model: ``state.model`` as the worker context wrapped it.
        batches: of equally many crops, one for each draw.

    Returns:
        The loss of the share, mean over the parts' subnets, a detached scalar: L1 in the networks' range [-1, 1].

    Raises:
        NonFiniteLossError: on the CPU before the weights are touched; on a GPU ``state.watch`` tells later.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate_at(state.step, config)
    state.optimizer.zero_grad(set_to_none=True)
    device = next(state.model.parameters()).device
    parts = [part for batch in batches for part in _parts(batch, config.accumulate)]
    losses = [_backward(model, part, 1 / len(parts), device, config, part is parts[-1]) for part in parts]
    total = torch.stack(losses).sum()
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm or math.inf)
    state.watch.add(losses, norm, parts, state.step)
    state.optimizer.step()
    if state.ema is not None:
        state.ema.update_parameters(state.model)
    state.step += 1
    return total


def _backward(
    model: nn.Module, batch: Batch, share: float, device: torch.device, config: TrainConfig, is_last: bool
) -> Tensor:
    """Add one part's share of the gradients, summed over the draw's subnets; its share of the mean loss."""
    on_device = batch.to(device)
    target = on_device.target.float() / 255
    subnets = batch.draw.subnets
    total, teacher = torch.zeros((), device=device), None
    for subnet in subnets:
        with _gradient_sync(model, is_last and subnet == subnets[-1]):
            sr = _answer(model, on_device, subnet, config.precision)
            loss = _l1(sr, target if teacher is None else torch.lerp(target, teacher, config.distillation))
            (loss * share).backward()
        teacher = sr.detach() if teacher is None else teacher
        total += loss.detach()
    return total * (share / len(subnets))


def _answer(model: nn.Module, batch: Batch, subnet: int, precision: str) -> Tensor:
    """(B, Q, 3) float32 in [0, 1]."""
    lr = batch.lr.float() / 255
    with torch.autocast(lr.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        sr: Tensor = model(lr, batch.draw.scale, batch.hr_size, subnet=subnet, coord=batch.coord)
    return sr.float()


def _l1(sr: Tensor, target: Tensor) -> Tensor:
    return 2 * (sr - target).abs().mean()


def _parts(batch: Batch, count: int) -> Iterator[Batch]:
    size = len(batch.lr) // count
    for i in range(count):
        cut = slice(i * size, (i + 1) * size)
        yield Batch(batch.draw, batch.lr[cut], batch.coord[cut], batch.target[cut], batch.hr_size, batch.names[cut])


def _gradient_sync(model: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Workers exchange gradients once a step, with the last part."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not is_last else nullcontext()
