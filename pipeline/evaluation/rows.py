"""Scores as rows: a journal while they are made, one Parquet file when the run ends.

Every row names what it is a score of, so rows of several models, suites and protocols share a
folder, and a run that was stopped finds what it had done. Rows that failed are tried again.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from anysr.files import whole_file
from pipeline.errors import UserError, one_line
from pipeline.files import parsed_lines

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

OK = "ok"


@dataclass(frozen=True, order=True)
class Key:
    """What a score is a score of.

    Attributes:
        model_digest: changes whenever the model's answers may.
        suite: its name.
        image: path below the suite's folder.
        image_digest: of the HR file's bytes, and of the LR file's where it is given.
        scale_h: s_h.
        scale_w: s_w.
        lr: how the LR image was made: "pil", "matlab" or "given".
        protocol: name of the protocol.
        subnet: "auto", "full" or an index.
        metric: "psnr" in dB, "ssim" or "lpips".
    """

    model_digest: str
    suite: str
    image: str
    image_digest: str
    scale_h: float
    scale_w: float
    lr: str
    protocol: str
    subnet: str
    metric: str


@dataclass(frozen=True)
class Row(Key):
    """A score.

    Attributes:
        model: the model's name.
        kind: "any-resource", "any-scale", "fixed x2" or "interpolation".
        scoring: the protocol in words.
        border_h: pixels cut off top and bottom.
        border_w: pixels cut off left and right.
        value: the score; null where there is none.
        status: "ok", or why there is no score.
    """

    model: str
    kind: str
    scoring: str
    border_h: int
    border_w: int
    value: float | None
    status: str = OK

    @property
    def key(self) -> Key:
        """What it is a score of."""
        return Key(*astuple(self)[: len(Key.__dataclass_fields__)])


_ARROW = {"str": pa.string(), "float": pa.float64(), "int": pa.int64(), "bytes": pa.binary()}


def write_table(path: Path, kind: type[DataclassInstance], rows: Iterable[DataclassInstance]) -> None:
    """Write rows as a Parquet file, which appears whole or not at all.

    Args:
        path: the file.
        kind: the rows' dataclass, of strings, numbers and bytes, which may be absent.
        rows: in the order of the file.
    """
    schema = pa.schema([(field.name, _ARROW[str(field.type).removesuffix(" | None")]) for field in fields(kind)])
    with whole_file(path) as partial:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=schema), partial)


class RowStore:
    """The rows in a folder; make it with :func:`open_rows`."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "rows.parquet"
        self._journal = folder / "rows.journal.jsonl"
        self._rows = {row.key: row for row in (*_read_parquet(self.file), *_read_journal(self._journal))}

    def __contains__(self, key: Key) -> bool:
        """Whether there is a score, and not just a failure."""
        return key in self._rows and self._rows[key].status == OK

    def __getitem__(self, key: Key) -> Row:
        return self._rows[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(sorted(self._rows))

    def add(self, rows: Iterable[Row]) -> None:
        """Keep rows, also if the process is killed right after."""
        new = list(rows)
        with self._journal.open("a") as file:
            file.writelines(json.dumps(asdict(row)) + "\n" for row in new)
        self._rows |= {row.key: row for row in new}

    def write(self) -> None:
        """All rows in the order of their keys, into the Parquet file; it appears whole or not at all."""
        write_table(self.file, Row, [self._rows[key] for key in self])
        self._journal.unlink(missing_ok=True)


def read_rows(folder: Path) -> list[Row]:
    """The rows in a folder, in the order of their keys; changes nothing there.

    Raises:
        UserError: the rows cannot be read.
    """
    store = RowStore(folder)
    return [store[key] for key in store]


@contextmanager
def open_rows(folder: Path) -> Iterator[RowStore]:
    """The rows in a folder, made if need be; written at the end, also after an error.

    Raises:
        UserError: another run is writing there, or the rows that are there cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another evaluation is writing to {folder}; wait for it, or name another --out") from None
        store = RowStore(folder)
        store.write()  # a journal that was cut short is not to be appended to
        try:
            yield store
        finally:
            store.write()


def _read_parquet(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    try:
        return [Row(**values) for values in pq.read_table(path).to_pylist()]
    except (pa.ArrowException, TypeError) as error:
        raise UserError(
            f"{path} is not a file of rows ({one_line(error)}); move it away, or name another --out"
        ) from None


def _read_journal(path: Path) -> list[Row]:
    content = path.read_bytes() if path.is_file() else b""
    mend = "remove that line, and give the command again: its score is made anew"
    return parsed_lines(content, lambda values: Row(**values), path, mend)
