"""Whether a file's weights are those of a network; the refusal lists all that differs."""

from __future__ import annotations

from collections.abc import Mapping

Shape = tuple[int, ...]


def check_fit(where: str, expected: Mapping[str, Shape], given: Mapping[str, Shape]) -> None:
    """Compare names and shapes; trailing ones do not count, since 1x1 convolutions are linear layers.

    Raises:
        ValueError: in one line, every missing, unexpected and mis-shaped key.
    """
    faults = {
        "missing": [f"{name} {shape}" for name, shape in expected.items() if name not in given],
        "unexpected": [f"{name} {shape}" for name, shape in given.items() if name not in expected],
        "mis-shaped": [
            f"{name} is {given[name]}, not {shape}"
            for name, shape in expected.items()
            if name in given and _trimmed(given[name]) != _trimmed(shape)
        ],
    }
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in faults.items() if names)
        raise ValueError(f"the weights in {where} do not fit: {listed}")


def _trimmed(shape: Shape) -> Shape:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape
