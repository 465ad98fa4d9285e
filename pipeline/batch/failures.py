"""The table of what failed: for programs as Parquet, for people as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from anysr.cli import shown
from anysr.files import write_whole
from pipeline.batch.enlarge import Order
from pipeline.storage import s3
from pipeline.storage.places import Place

_CSV, _PARQUET = "upscale-failures.csv", "upscale-failures.parquet"
_COLUMNS = ("image", "error", "asked", "model")


def keep_failures(order: Order, failures: Mapping[str, str], asked: str) -> Place:
    """Write ``upscale-failures.csv`` and ``….parquet`` beside the results; without failures, remove earlier ones.

    Args:
        order: what was wanted.
        failures: why, by the image's name.
        asked: the request in words.

    Returns:
        Where the CSV file is.
    """
    rows = [(shown(name), shown(error), shown(asked), order.digest) for name, error in sorted(failures.items())]
    for name, content in ((_CSV, _as_csv(rows)), (_PARQUET, _as_parquet(rows))):
        _keep(order.out / name, content if rows else None)
    return order.out / _CSV


def _as_csv(rows: Sequence[tuple[str, ...]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([_COLUMNS, *rows])
    return text.getvalue().encode("utf-8", "backslashreplace")


def _as_parquet(rows: Sequence[tuple[str, ...]]) -> bytes:
    columns = zip(*rows, strict=True) if rows else ((),) * len(_COLUMNS)
    table = pa.table({name: pa.array(values, pa.string()) for name, values in zip(_COLUMNS, columns, strict=True)})
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def _keep(place: Place, content: bytes | None) -> None:
    if isinstance(place, Path):
        if content is None:
            place.unlink(missing_ok=True)
        else:
            write_whole(place, content)
    elif content is None:
        s3.delete(place)
    else:
        s3.write(place, content)
