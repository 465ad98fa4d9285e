"""Crops of the images that gain most and least, at matching places, each above the map of its error; as rows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image as PilImage
from PIL import ImageDraw
from torch import Tensor

from anysr.metrics import round_to_8_bits
from pipeline.evaluation.plan import Candidate, Evaluation
from pipeline.evaluation.rows import Row, write_table
from pipeline.evaluation.scales import Scale
from pipeline.evaluation.score import Scene
from pipeline.evaluation.upscalers import INTERPOLATION, subject_of

CROP_PX = 72
ERROR_LEVELS = 48  # of 255: the error that is shown brightest
_WHOLE_PX, _FAVOURED = 216, 3.0


@dataclass(frozen=True)
class Picture:
    """One crop, or the whole HR image with the crop's place.

    Attributes:
        model_digest: as in the rows of scores, like the next five; empty for HR.
        suite: the suite's name.
        image: path below its folder.
        scale_h: s_h.
        scale_w: s_w.
        subnet: "auto", "full", an index, or empty.
        rank: "best" or "worst".
        what: "hr", "whole", "answer" or "error".
        top: the crop's first row in the HR image.
        left: the crop's first column.
        png: the file.
    """

    model_digest: str
    suite: str
    image: str
    scale_h: float
    scale_w: float
    subnet: str
    rank: str
    what: str
    top: int
    left: int
    png: bytes


def write_pictures(evaluation: Evaluation, rows: Sequence[Row], folder: Path) -> None:
    """Make the crops for an evaluation whose rows are there."""
    write_table(folder / "pictures.parquet", Picture, list(_pictures(evaluation, rows)))


def read_pictures(folder: Path) -> list[Picture]:
    """The crops in a folder; none where there is no file of this form."""
    try:
        return [Picture(**values) for values in pq.read_table(folder / "pictures.parquet").to_pylist()]
    except (FileNotFoundError, pa.ArrowException, TypeError):
        return []


def _pictures(evaluation: Evaluation, rows: Sequence[Row]) -> Iterator[Picture]:
    upscaler = subject_of([candidate.upscaler for candidate in evaluation.candidates])
    subject = next((candidate for candidate in evaluation.candidates if candidate.upscaler is upscaler), None)
    even = [s for s in evaluation.scales if s.height == s.width and subject and subject.upscaler.serves(s)]
    if subject is None or not even:
        return
    scale = min(even, key=lambda s: abs(s.height - _FAVOURED))
    for number, suite in enumerate(evaluation.suites):
        gains = _gains(subject, rows, suite.name, scale)
        if not gains:
            continue
        ranked = sorted(gains, key=lambda image: (gains[image], image))
        chosen = {"best": ranked[-1], "worst": ranked[0]}
        for rank, image in chosen.items() if len(ranked) > 1 else [("best", ranked[0])]:
            index = next(i for i in range(len(suite.hr)) if suite.image_name(i) == image)
            yield from _panels(evaluation, subject, number, index, scale, rank)


def _gains(subject: Candidate, rows: Sequence[Row], suite: str, scale: Scale) -> dict[str, float]:
    """By image: PSNR of the subject's first subnet over bicubic, or alone where bicubic was not scored."""
    here = [row for row in rows if (row.suite, row.scale_h, row.scale_w, row.metric) == (suite, *scale.pair, "psnr")]
    own = (subject.upscaler.digest, subject.subnets[0])
    of = {
        (row.image, row.kind == INTERPOLATION): row.value
        for row in here
        if row.value is not None and (row.kind == INTERPOLATION or (row.model_digest, row.subnet) == own)
    }
    gains = {image: value - of.get((image, True), 0.0) for (image, bicubic), value in of.items() if not bicubic}
    return {image: gain for image, gain in gains.items() if np.isfinite(gain)}


def _panels(
    evaluation: Evaluation, subject: Candidate, suite: int, image: int, scale: Scale, rank: str
) -> Iterator[Picture]:
    opened = evaluation.suites[suite]
    lr, hr = Scene(opened, image, scale, evaluation.lr).colour
    size = (hr.shape[1], hr.shape[2])
    shown = [
        (candidate, subnet, candidate.upscaler.enlarge(lr, scale, size, subnet).clamp(0, 1))
        for candidate in sorted(evaluation.candidates, key=lambda c: (c.upscaler.kind != INTERPOLATION, c == subject))
        for subnet in candidate.subnets
        if candidate.upscaler.serves(scale)
    ]
    own = next(sr for candidate, _, sr in shown if candidate == subject)
    rest = [sr for candidate, _, sr in shown if candidate.upscaler.kind == INTERPOLATION]
    better = _error(rest[0], hr) - _error(own, hr) if rest else _error(own, hr)
    top, left = _place(better if rank == "best" else -better)
    window = (slice(None), slice(top, top + CROP_PX), slice(left, left + CROP_PX))

    def picture(digest: str, subnet: str, what: str, png: bytes) -> Picture:
        name = opened.image_name(image)
        return Picture(digest, opened.name, name, *scale.pair, subnet, rank, what, top, left, png)

    yield picture("", "", "hr", _png(_pixels(hr[window])))
    yield picture("", "", "whole", _whole(hr, top, left))
    for candidate, subnet, sr in shown:
        yield picture(candidate.upscaler.digest, subnet, "answer", _png(_pixels(sr[window])))
        yield picture(candidate.upscaler.digest, subnet, "error", _png(_heat(_error(sr[window], hr[window]))))


def _error(sr_3HW: Tensor, hr_3HW: Tensor) -> Tensor:
    """(H, W) largest difference of the three colours, in levels of 255."""
    return (sr_3HW - hr_3HW).abs().amax(0) * 255


def _place(value_HW: Tensor) -> tuple[int, int]:
    """Corner of the window over which the mean is largest."""
    pooled = torch.nn.functional.avg_pool2d(
        value_HW[None, None].double(), (min(CROP_PX, value_HW.shape[0]), min(CROP_PX, value_HW.shape[1])), stride=4
    )[0, 0]
    row, column = divmod(int(pooled.argmax()), pooled.shape[1])
    return 4 * row, 4 * column


def _heat(error_HW: Tensor) -> npt.NDArray[np.uint8]:
    colours = mpl.colormaps["inferno"]((error_HW / ERROR_LEVELS).clamp(0, 1).numpy(), bytes=True)
    return np.asarray(colours[..., :3], dtype=np.uint8)


def _pixels(image_3HW: Tensor) -> npt.NDArray[np.uint8]:
    return (round_to_8_bits(image_3HW.clamp(0, 1)) * 255).byte().permute(1, 2, 0).numpy()


def _whole(hr_3HW: Tensor, top: int, left: int) -> bytes:
    """The HR image, small, with the crop's place marked."""
    image = PilImage.fromarray(_pixels(hr_3HW))
    factor = min(1.0, _WHOLE_PX / max(image.size))
    small = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
    box = [round(v * factor) for v in (left, top, left + CROP_PX - 1, top + CROP_PX - 1)]
    draw = ImageDraw.Draw(small)
    draw.rectangle(box, outline="black", width=4)
    draw.rectangle([box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1], outline="yellow", width=2)
    return _png(np.asarray(small))


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    PilImage.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
