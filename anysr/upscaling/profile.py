"""How long enlargements take on one device, told from a few that were measured.

For each subnet and precision the time of one pass is taken to be

    seconds = a + b * (LR pixels) + c * (HR pixels),    a, b, c >= 0,

as the encoder works on each LR pixel, the decoder on each HR pixel, and a call has a price of its
own. The three are fitted to the measurements by least squares of the *relative* error, so that small
images count as much as large ones. What is promised is that time multiplied by the 95th percentile of
(measured / fitted) over all measured runs, for the scatter of the runs and what the form misses, and a
tenth more, for sizes between the measured ones. Beyond twice the largest measured image the same
line goes on, with another tenth: nothing in the networks grows faster, but caches stop helping.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anysr.files import write_whole
from anysr.upscaling.plan import Precision

_FORMAT = 1
_QUANTILE, _RESERVE = 0.95, 1.1
_FAR, _FAR_MARGIN = 2.0, 1.1
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """Runs of one subnet at one size, scale and precision.

    Attributes:
        subnet: index.
        precision: in which it computed.
        lr_size: (h, w).
        size: (H, W).
        seconds: of each run, pixels to pixels.
    """

    subnet: int
    precision: Precision
    lr_size: tuple[int, int]
    size: tuple[int, int]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class DeviceProfile:
    """Times of one model on one device.

    Attributes:
        model_digest: SHA-256 of the model file.
        device: name of the processor, with the number of threads for a CPU, and torch's version.
        measurements: at least three for each subnet and precision.
    """

    model_digest: str
    device: str
    measurements: tuple[Measurement, ...]

    def seconds(self, subnet: int, lr_size: tuple[int, int], size: tuple[int, int], precision: Precision) -> float:
        """Time that a pass stays below in about nineteen of twenty runs.

        Raises:
            ValueError: this subnet was not measured in this precision.
        """
        if (subnet, precision) not in self._fits:
            raise ValueError(f"the profile of {self.device} knows nothing of subnet {subnet} in {precision}")
        coefficients, margin = self._fits[subnet, precision]
        pixels = size[0] * size[1]
        largest = max(m.size[0] * m.size[1] for m in self.measurements if m.subnet == subnet)
        far = _FAR_MARGIN if pixels > _FAR * largest else 1.0
        return float(_terms(lr_size, size) @ coefficients) * margin * far

    def knows(self, num_subnets: int, precision: Precision) -> bool:
        """Whether each of so many subnets was measured in a precision."""
        return set(range(num_subnets)) <= {m.subnet for m in self.measurements if m.precision == precision}

    @property
    def precisions(self) -> set[Precision]:
        """Those that were measured."""
        return {m.precision for m in self.measurements}

    @cached_property
    def _fits(self) -> dict[tuple[int, Precision], tuple[Floats, float]]:
        ordered = sorted(self.measurements, key=lambda m: (m.subnet, m.precision))
        groups = itertools.groupby(ordered, key=lambda m: (m.subnet, m.precision))
        return {key: _fit(list(group)) for key, group in groups}

    def save(self, path: Path) -> None:
        """Write as JSON, complete or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> DeviceProfile:
        """Read a file of :meth:`save`.

        Raises:
            ValueError: it is none.
            OSError: it cannot be read.
        """
        try:
            values = json.loads(path.read_text())
            if values["format"] != _FORMAT:
                raise ValueError(f"format {values['format']}")
            measurements = tuple(_measurement(entry) for entry in values["measurements"])
            return cls(str(values["model_digest"]), str(values["device"]), measurements)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no device profile ({error}); write one with anysr profile") from None


def _measurement(entry: dict[str, Any]) -> Measurement:
    (h, w), (height, width) = entry["lr_size"], entry["size"]
    seconds = tuple(float(s) for s in entry["seconds"])
    if not seconds or not all(0 < s < math.inf for s in seconds):
        raise ValueError("a measurement without a time")
    return Measurement(int(entry["subnet"]), entry["precision"], (int(h), int(w)), (int(height), int(width)), seconds)


def _fit(measurements: Sequence[Measurement]) -> tuple[Floats, float]:
    """Coefficients (a, b, c), and by how much to multiply what they give."""
    terms = np.stack([_terms(m.lr_size, m.size) for m in measurements])
    medians = np.array([np.median(m.seconds) for m in measurements])
    coefficients = _non_negative_least_squares(terms / medians[:, None], np.ones(len(medians)))
    fitted = terms @ coefficients
    ratios = np.concatenate([np.array(m.seconds) / f for m, f in zip(measurements, fitted, strict=True)])
    return coefficients, max(1.0, float(np.quantile(ratios, _QUANTILE))) * _RESERVE


def _terms(lr_size: tuple[int, int], size: tuple[int, int]) -> Floats:
    return np.array([1.0, lr_size[0] * lr_size[1], size[0] * size[1]])


def _non_negative_least_squares(a: Floats, b: Floats) -> Floats:
    """The best of the solutions on every subset of the three columns that has no negative entry."""
    best, least = np.zeros(a.shape[1]), float(b @ b)
    for count in range(1, a.shape[1] + 1):
        for columns in itertools.combinations(range(a.shape[1]), count):
            x = np.zeros(a.shape[1])
            x[list(columns)] = np.linalg.lstsq(a[:, columns], b, rcond=None)[0]
            error = float(np.square(a @ x - b).sum())
            if x.min() >= 0 and error < least:
                best, least = x, error
    return best
