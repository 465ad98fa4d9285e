"""What a network is made of: a frozen description that validates itself and travels with the weights."""

from __future__ import annotations

import difflib
import itertools
import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from anysr.colour import ColourConfig
from anysr.decoders import DECODERS, DecoderConfig, EcbsrConfig, LiifConfig, PixelShuffleConfig, SrnoConfig
from anysr.encoders import ENCODERS, EdsrConfig, EncoderConfig
from anysr.fields import set_typed, typed, typed_fields
from anysr.interweave import InterweaveConfig
from anysr.slimmable import channels_at

_GROUP = "a group's scales must be [low, high], two finite numbers with 1 <= low < high"


def checked_range(scales: Any, what: str) -> tuple[float, float]:
    """The lowest and the highest scale of a range; ``what`` begins the refusal.

    Raises:
        ValueError: not two finite numbers with 1 <= low < high.
    """
    try:
        low, high = scales
        fitting = 1 <= low < high < math.inf
    except (TypeError, ValueError):
        fitting = False
    if not fitting:
        raise ValueError(f"{what}, got {scales!r}")
    return low, high


@dataclass(frozen=True)
class SubnetConfig:
    """One scale group and how wide its subnet is.

    Attributes:
        scales: [low, high): the group serves low <= max(s_h, s_w) < high.
        encoder_width: fraction of the encoder's slimmable channels, in (0, 1].
        decoder_width: fraction of the decoder's hidden channels, in (0, 1]; AnySR's release keeps 1.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    scales: tuple[float, float]
    encoder_width: float = 1.0
    decoder_width: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", checked_range(self.scales, _GROUP))
        set_typed(self, "subnets")
        for name in ("encoder_width", "decoder_width"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")


PAPER_SUBNETS = (
    SubnetConfig((1.0, 1.75), 0.5),
    SubnetConfig((1.75, 2.55), 0.7),
    SubnetConfig((2.55, 3.25), 0.9),
    SubnetConfig((3.25, 4.0), 1.0),
)


@dataclass(frozen=True)
class ModelConfig:
    """A whole network.

    Attributes:
        encoder: RGB to features.
        decoder: features and queries to RGB.
        interweave: how the scale enters the features; None builds the plain published encoder.
        subnets: scale groups in ascending order, without gap or overlap; below the first and above
            the last group, those two serve. One group of width 1 is the plain network.
        width_multiple: narrowed channels are rounded to a multiple of this; 1 rounds down as
            AnySR's release does.
        colour: the range the network works in; callers always see RGB in [0, 1].
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    encoder: EncoderConfig = field(default_factory=EdsrConfig)
    decoder: DecoderConfig = field(default_factory=LiifConfig)
    interweave: InterweaveConfig | None = field(default_factory=InterweaveConfig)
    subnets: tuple[SubnetConfig, ...] = PAPER_SUBNETS
    width_multiple: int = 1
    colour: ColourConfig = field(default_factory=ColourConfig)

    def __post_init__(self) -> None:
        for name, classes in _PARTS.items():
            _check_part(getattr(self, name), classes, f"model.{name}")
        for i, group in enumerate(_groups(self.subnets)):
            _check_part(group, SubnetConfig, f"model.subnets[{i}]")
        object.__setattr__(self, "subnets", tuple(self.subnets))
        object.__setattr__(self, "width_multiple", typed(self.width_multiple, int, "model.width_multiple"))
        if not self.subnets:
            raise ValueError("subnets must hold at least one group; one group of width 1 is the plain network")
        if self.width_multiple < 1:
            raise ValueError(f"width_multiple must be at least 1, got {self.width_multiple}")
        _check_partition(self.subnets)
        _check_widths(self)

    def channels(self, subnet: SubnetConfig) -> tuple[int, int]:
        """Encoder and decoder channels of a subnet."""
        encoder_multiple, decoder_multiple = self.width_multiples
        return (
            channels_at(subnet.encoder_width, self.encoder.slim_channels, encoder_multiple),
            channels_at(subnet.decoder_width, self.decoder.slim_channels, decoder_multiple),
        )

    @property
    def width_multiples(self) -> tuple[int, int]:
        """What narrowed channels of encoder and decoder are multiples of; SRNO keeps whole heads."""
        heads = self.decoder.head_channels if isinstance(self.decoder, SrnoConfig) else 1
        return self.width_multiple, math.lcm(self.width_multiple, heads)

    @property
    def fixed_factor(self) -> int | None:
        """The only enlargement that the network makes; None for a network of any scale."""
        return self.decoder.factor if isinstance(self.decoder, PixelShuffleConfig | EcbsrConfig) else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the inverse of :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Read a nested mapping.

        Raises:
            ValueError: an unknown key (the nearest valid one is named) or a bad value.
        """
        _check_mapping(values, "model")
        check_keys(values, (f.name for f in fields(cls)), "model")
        given: dict[str, Any] = dict(values)
        for name, table in (("encoder", ENCODERS), ("decoder", DECODERS)):
            if isinstance(given.get(name), Mapping):
                kind = given[name].get("kind", next(iter(table)))
                check_keys([kind], table, f"model.{name}.kind")
                given[name] = _read(table[kind][0], given[name], f"model.{name}")
        for name, part in (("interweave", InterweaveConfig), ("colour", ColourConfig)):
            if isinstance(given.get(name), Mapping):
                given[name] = _read(part, given[name], f"model.{name}")
        if "subnets" in given:
            given["subnets"] = tuple(
                s if isinstance(s, SubnetConfig) else _read(SubnetConfig, s, f"model.subnets[{i}]")
                for i, s in enumerate(_groups(given["subnets"]))
            )
        return cls(**given)


# The classes that each part may be of.
_PARTS: dict[str, Any] = {
    "encoder": EncoderConfig,
    "decoder": DecoderConfig,
    "interweave": InterweaveConfig | None,
    "colour": ColourConfig,
}


def check_keys(given: Iterable[str], allowed: Iterable[str], where: str) -> None:
    """Refuse a key that does not exist, naming the nearest one that does."""
    names = sorted(allowed)
    for key in given:
        if key not in names:
            close = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(names)}"
            raise ValueError(f"{where}: unknown {key!r}; {hint}")


def _read(cls: Any, values: Any, where: str) -> Any:
    """A part from plain values, each of which must be of the type that its field declares."""
    _check_mapping(values, where)
    check_keys(values, (f.name for f in fields(cls)), where)
    needed = [f.name for f in fields(cls) if f.default is MISSING and f.name not in values]
    if needed:
        raise ValueError(f"{where} must hold {', '.join(needed)}, got {reprlib.repr(dict(values))}")
    return cls(**typed_fields(cls, values, where))  # its class would name the key less fully


def _check_part(part: Any, classes: Any, where: str) -> None:
    if isinstance(part, Mapping):  # in a configuration made by hand
        raise ValueError(f"{where} is a mapping of plain values; ModelConfig.from_dict and anysr.build read those")
    if not isinstance(part, classes):
        null = ", or null" if isinstance(None, classes) else ""
        raise ValueError(f"{where} must be a mapping of its values{null}, got {reprlib.repr(part)}")


def _groups(subnets: Any) -> Sequence[Any]:
    if not isinstance(subnets, list | tuple):
        raise ValueError(f"model.subnets must be a list of scale groups, got {reprlib.repr(subnets)}")
    return subnets


def _check_mapping(values: Any, where: str) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be a mapping, got {reprlib.repr(values)}")


def _check_partition(subnets: tuple[SubnetConfig, ...]) -> None:
    for left, right in itertools.pairwise(subnets):
        end, start = left.scales[1], right.scales[0]
        if end != start:
            fault = "overlap" if start < end else "leave a hole"
            raise ValueError(
                f"scale groups {list(left.scales)} and {list(right.scales)} {fault} between {min(start, end)} and "
                f"{max(start, end)}; each group must start where the one before it ends"
            )


def _check_widths(config: ModelConfig) -> None:
    last = config.subnets[-1]
    if last.encoder_width != 1 or last.decoder_width != 1:
        raise ValueError(
            "the last scale group must use the full network (encoder_width = decoder_width = 1), got "
            f"{last.encoder_width} and {last.decoder_width}"
        )
    for left, right in itertools.pairwise(config.subnets):
        narrow, wide = config.channels(left), config.channels(right)
        if narrow == wide or narrow[0] > wide[0] or narrow[1] > wide[1]:
            raise ValueError(
                f"widths must grow with the scale: group {list(left.scales)} has {narrow} encoder and decoder "
                f"channels, the next, {list(right.scales)}, has {wide}; widen the latter, narrow the former, or "
                "join the two groups"
            )
