"""One image after the other, as a worker does it: from a place to a place, an error being an answer too."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from anysr.cli.models import open_device
from anysr.cli.results import mark_of
from anysr.cli.upscale import describe, reason
from anysr.imaging import Format, format_of
from anysr.model import AnySR
from anysr.upscaling import FileOptions, Request, Upscaler, enlarge_file
from anysr.upscaling.plan import TimePredictor
from pipeline.batch.results import Results
from pipeline.batch.units import Unit
from pipeline.errors import UserError, one_line
from pipeline.storage import s3
from pipeline.storage.places import Place


@dataclass(frozen=True)
class Order:
    """What is wanted of all images; sent to every worker.

    Attributes:
        model: the network, on the CPU.
        digest: SHA-256 of its file.
        request: how large, within which limits.
        options: of reading and writing.
        device: as named by the user; None is a GPU where the worker has one.
        profile: of the workers' device, where time is limited.
        out: folder or prefix of the results.
        overwrite: do again what is there.
    """

    model: AnySR
    digest: str
    request: Request
    options: FileOptions
    device: str | None
    profile: TimePredictor | None
    out: Place
    overwrite: bool

    def mark(self, unit: Unit) -> str:
        """Digest of all that a result depends on."""
        return mark_of(self.digest, self.request, _format(unit), self.options, unit.stamp)


@dataclass(frozen=True)
class Outcome:
    """What became of an image.

    Attributes:
        name: of the image.
        line: how it came about.
        notes: what was lost.
        error: why there is no result.
        seconds: from reading to writing.
    """

    name: str
    line: str = ""
    notes: tuple[str, ...] = ()
    error: str | None = None
    seconds: float = 0.0


class Enlarger:
    """Holds the network for any number of images, and nothing of an image."""

    def __init__(self, order: Order) -> None:
        self._order, self._results = order, Results(order.out)
        self._upscaler = Upscaler(order.model, open_device(order.device), order.profile)

    def enlarge(self, unit: Unit) -> Outcome:
        """Enlarge an image; whatever is wrong with it is told in the outcome."""
        started = time.monotonic()
        try:
            outcome = self._enlarge(unit)
        except UserError as error:
            outcome = Outcome(unit.name, error=one_line(error))
        except Exception as error:  # one image's fault must not cost the others; decoders raise anything
            outcome = Outcome(unit.name, error=reason(error))
        return replace(outcome, seconds=time.monotonic() - started)

    def _enlarge(self, unit: Unit) -> Outcome:
        order, mark = self._order, self._order.mark(unit)
        # A worker may have died after it wrote the result and before anybody heard of it.
        if not order.overwrite and self._results.has(unit.target, mark):
            return Outcome(unit.name, "there already")
        if not order.overwrite:
            self._results.check_replaces_nothing(unit.target)
        encoded, result = enlarge_file(self._upscaler, _read(unit), order.request, _format(unit), order.options)
        self._results.write(unit.target, encoded, mark)
        return Outcome(unit.name, describe(result), result.picture.notes)


def _read(unit: Unit) -> bytes:
    if isinstance(unit.source, Path):
        return unit.source.read_bytes()
    data = s3.read(unit.source)
    if data is None:
        raise UserError(f"there is no {unit.source} any more")
    return data


def _format(unit: Unit) -> Format:
    return format_of(Path(unit.target.name))
