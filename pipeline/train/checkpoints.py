"""Checkpoint folders that appear complete or not at all, and are what was saved or are not used."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.errors import FatalError, UserError, one_line
from pipeline.files import sha256
from pipeline.storage import s3
from pipeline.storage.cache import local_folder
from pipeline.storage.places import Place, S3Uri
from pipeline.storage.transfer import exists, upload

# Where --local keeps its checkpoints in a run's folder, and the file by which Ray Train finds its own.
CHECKPOINTS, RAY_SNAPSHOT = "checkpoints", "checkpoint_manager_snapshot.json"
_CHECKSUMS = "checksums.json"
_STEP = re.compile(r"step_\d{9}")


def fill_checkpoint(folder: Path, write: Callable[[Path], None], name: str) -> None:
    """Let ``write`` fill a new folder, and write down the checksums of what it holds.

    Raises:
        UserError: the place cannot be written or is full; ``name`` says which checkpoint.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)
        sums = {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}
        (folder / _CHECKSUMS).write_text(json.dumps(sums, indent=2))
    # torch reports a full disk as a RuntimeError, safetensors as an error of its own.
    except Exception as error:
        raise UserError(
            f"cannot save the checkpoint {name} ({one_line(error)[:200]}); earlier checkpoints are kept: free some "
            "space or choose another run.storage, and submit the run again under the same name"
        ) from error


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is what was saved."""
    try:
        sums: dict[str, str] = json.loads((folder / _CHECKSUMS).read_text())
        for name, digest in sums.items():
            if sha256(folder / name) != digest:
                return f"{name} is not what was saved: its checksum is another"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return one_line(error)
    return None


def all_damaged(names: list[str]) -> FatalError:
    """The error of a run that cannot go on."""
    return FatalError(
        f"every checkpoint of the run is damaged ({', '.join(names)}); restore one from a back-up, or choose a new "
        "run.name to start again"
    )


def has_checkpoints(run: Place) -> bool:
    """Whether anything was saved in a run's folder, by --local or on Ray."""
    return Checkpoints(run / CHECKPOINTS, keep=1).has_any() or exists(run / RAY_SNAPSHOT)


class Checkpoints:
    """The newest few of a run, in folders named by step below a folder or an S3 prefix."""

    def __init__(self, place: Place, keep: int) -> None:
        self._place, self._keep = place, keep

    def save(self, write: Callable[[Path], None], step: int) -> None:
        """Save what ``write`` puts into a folder; nothing already saved is touched before that is done.

        Raises:
            UserError: it could not be saved.
        """
        target = self._place / f"step_{step:09d}"
        if isinstance(target, S3Uri):
            with TemporaryDirectory() as folder:
                fill_checkpoint(Path(folder), write, str(target))
                # Its checksums last: what has them is complete.
                for file in sorted(Path(folder).iterdir(), key=lambda file: (file.name == _CHECKSUMS, file.name)):
                    upload(file, target / file.name)
        else:
            _save_folder(target, write)
        others = [place for place in self._steps() if place.name != target.name]
        earlier = [place for place in others if place.name < target.name]
        # Later ones are of a course that was given up, because they are damaged.
        for old in (*earlier[: max(0, len(earlier) + 1 - self._keep)], *others[len(earlier) :]):
            _remove(old)

    def has_any(self) -> bool:
        """Whether there is one, damaged or not."""
        return bool(self._steps())

    @contextmanager
    def latest(self, say: Callable[[str], None]) -> Iterator[Path | None]:
        """A folder with the newest checkpoint that is what was saved; None if there is none at all.

        Raises:
            FatalError: all of them are damaged.
        """
        found = self._steps()[::-1]
        for place in found:
            folder, fault = _fetched(place)
            if fault is None:
                yield folder
                return
            say(f"checkpoint {place} is damaged ({fault}) and not used; looking at the one before")
        if found:
            raise all_damaged([str(place) for place in found])
        yield None

    def _steps(self) -> Sequence[Place]:
        if isinstance(self._place, Path):
            return sorted(place for place in self._place.glob("step_*") if _STEP.fullmatch(place.name))
        keys = [one.uri.key.removeprefix(f"{self._place.key}/") for one in s3.list_objects(self._place)]
        complete = {folder for folder, _, name in (key.partition("/") for key in keys) if name == _CHECKSUMS}
        return [self._place / name for name in sorted(complete) if _STEP.fullmatch(name)]


def _save_folder(target: Path, write: Callable[[Path], None]) -> None:
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        fill_checkpoint(partial, write, str(target))
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fetched(place: Place) -> tuple[Path, str | None]:
    """This machine's copy of a checkpoint, and what is wrong with it."""
    try:
        folder = local_folder(place)
    except s3.DamagedError as error:
        return Path(), one_line(error)
    return folder, damage(folder)


def _remove(place: Place) -> None:
    if isinstance(place, Path):
        shutil.rmtree(place, ignore_errors=True)
    else:
        for one in s3.list_objects(place):
            s3.delete(one.uri)
