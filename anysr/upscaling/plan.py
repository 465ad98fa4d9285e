"""Budget in, network out: the best subnet that every limit allows, and what it will cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from anysr.amounts import rounded_up, show_macs, show_seconds
from anysr.cost import cost
from anysr.geometry import Target
from anysr.model import AnySR, Subnet, SubnetChoice
from anysr.upscaling.limits import BudgetError, Limits
from anysr.upscaling.strips import NUM_SYMMETRIES
from anysr.upscaling.targets import Enlargement

Precision = Literal["fp32", "bf16", "fp16"]
Tile = int | Literal["auto"] | None
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Request:
    """What is wanted of one image.

    Attributes:
        enlargement: how large.
        limits: what it may cost; a smaller subnet than the scale's own is taken for them.
        subnet: "auto" chooses by scale and limits; an index or "full" by hand.
        precision: in which the network computes; 16-bit pictures always take fp32.
        self_ensemble: average over the eight symmetries of a square; eight times the cost.
        tile: LR pixels a side of the encoder's windows; "auto" chooses and retries with smaller ones
            when memory runs out, None is the whole image.
    """

    enlargement: Enlargement
    limits: Limits = field(default_factory=Limits)
    subnet: SubnetChoice = "auto"
    precision: Precision = "fp32"
    self_ensemble: bool = False
    tile: Tile = "auto"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if isinstance(self.tile, int) and self.tile < 1:
            raise ValueError(f"a tile must have at least 1 pixel a side, got {self.tile}")


class TimePredictor(Protocol):
    """Knows how long this device takes; see :class:`anysr.upscaling.profile.DeviceProfile`."""

    def knows(self, num_subnets: int, precision: Precision) -> bool:
        """Whether so many subnets were measured in a precision."""
        ...

    def seconds(self, subnet: int, lr_size: tuple[int, int], size: tuple[int, int], precision: Precision) -> float:
        """Seconds that one pass stays below in about nineteen of twenty runs."""
        ...


@dataclass(frozen=True)
class Plan:
    """How one image will be enlarged.

    Attributes:
        lr_size: (h, w).
        target: output grid and scale pair.
        subnet: the one chosen.
        own: the one that the scale would choose.
        passes: through the network: colour and alpha apart, times eight for the self-ensemble.
        macs: multiply-adds of all passes, as published.
        executed_macs: of all passes in the exact faster form that runs.
        seconds: predicted; None without a profile of the device.
    """

    lr_size: tuple[int, int]
    target: Target
    subnet: Subnet
    own: Subnet
    passes: int
    macs: int
    executed_macs: int
    seconds: float | None


def make_plan(
    model: AnySR, lr_size: tuple[int, int], num_planes: int, request: Request, profile: TimePredictor | None
) -> Plan:
    """The widest subnet, from the scale's own downwards, that fits the limits.

    Args:
        model: the network.
        lr_size: (h, w).
        num_planes: parts of the picture that go through the network one by one.
        request: what is wanted.
        profile: predicts times; needed, in the request's precision, where the request limits them.

    Raises:
        BudgetError: not even the narrowest fits.
        ValueError: the size, scale or subnet is out of range, or a profile is missing.
    """
    if request.limits.seconds is not None and profile is None:
        raise ValueError("a limit on time needs a profile of the device; measure one with anysr profile")
    if profile is not None and not profile.knows(len(model.subnets), request.precision):
        if request.limits.seconds is not None:
            raise ValueError(
                f"a limit on time needs times in {request.precision} (16-bit pictures always take fp32), which this "
                f"device's profile lacks; measure them with anysr profile --precision {request.precision}"
            )
        profile = None
    target = request.enlargement.resolve(lr_size)
    own = model.subnet_for("auto", target.largest_scale)
    if request.subnet == "auto":
        candidates = model.subnets[own.index :: -1]
    else:
        candidates = (model.subnet_for(request.subnet, target.largest_scale),)
    plans = [_cost_of(model, lr_size, target, subnet, own, num_planes, request, profile) for subnet in candidates]
    for plan in plans:
        if not _violations(plan, request.limits):
            return plan
    raise BudgetError(_refusal(plans, request.limits))


def _cost_of(
    model: AnySR,
    lr_size: tuple[int, int],
    target: Target,
    subnet: Subnet,
    own: Subnet,
    num_planes: int,
    request: Request,
    profile: TimePredictor | None,
) -> Plan:
    passes = num_planes * (NUM_SYMMETRIES if request.self_ensemble else 1)
    once = cost(model, lr_size, target.scale, subnet.index)
    seconds = None
    if profile is not None:
        seconds = passes * profile.seconds(subnet.index, lr_size, target.size, request.precision)
    return Plan(lr_size, target, subnet, own, passes, passes * once.macs, passes * once.executed_macs, seconds)


def _violations(plan: Plan, limits: Limits) -> list[str]:
    """What of the plan is too much, each with the least that would do."""
    found = []
    if limits.macs is not None and plan.macs > limits.macs:
        found.append(f"{show_macs(plan.macs)} multiply-adds (budget {_least_macs(plan.macs)})")
    if limits.seconds is not None and plan.seconds is not None and plan.seconds > limits.seconds:
        found.append(f"{show_seconds(plan.seconds)} (latency {rounded_up(plan.seconds * 1e3):.10g}ms)")
    return found


def _least_macs(macs: float) -> str:
    return show_macs(rounded_up(macs)).replace(" ", "")


def _refusal(plans: list[Plan], limits: Limits) -> str:
    smallest = plans[-1]
    (h, w), (height, width) = smallest.lr_size, smallest.target.size
    return (
        f"no subnet fits the budget: {w} x {h} to {width} x {height} takes even subnet {smallest.subnet.index} "
        f"{' and '.join(_violations(smallest, limits))}; give that much, or enlarge less"
    )
