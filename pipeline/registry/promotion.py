"""Moving the champion: forwards by comparison, backwards by what is recorded."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import anysr
from pipeline.errors import UserError, one_line
from pipeline.registry.decision import Comparison, objections
from pipeline.registry.lock import Lock
from pipeline.registry.versions import Registry, Version

CHAMPION, CANDIDATE = "champion", "candidate"
_HISTORY_TAG, _WHY_TAG = "anysr.champions", "anysr.promotion"
_WAY_OUT = (
    "a champion that cannot be brought back makes room by jobs/register.py rollback, or where its alias is taken off "
    "it in MLflow: the next promotion is then compared with none"
)
_LONGEST_TAG = 5000  # MLflow's limit


@dataclass(frozen=True)
class Change:
    """One move of the champion.

    Attributes:
        action: "promote", or "rollback" to the champion before.
        version: the champion from then on.
        at: seconds since 1970.
        by: who asked for it.
    """

    action: Literal["promote", "rollback"]
    version: int
    at: int
    by: str


Compare = Callable[[Version, Version], Comparison]


def promote(registry: Registry, new: Version, compare: Compare, margin_db: float, cost_margin: float) -> Version | None:
    """Make a version the champion if it is not worse than the present one; returns the one before it.

    The champion it is compared with is the champion it replaces: if another promotion came first, it is compared
    again, with the new one.

    Raises:
        UserError: it is worse somewhere, or costs more; every place is named. The model file of either is gone or
            damaged.
    """
    _check_readable(registry, new)
    while True:
        old = registry.get(f"@{CHAMPION}")
        if old is not None and old.number == new.number:
            raise UserError(f"version {new.number} is the champion already")
        if old is not None:
            _check_readable(registry, old, _WAY_OUT)
        comparison = None if old is None else compare(old, new)
        if old and comparison and (reasons := objections(comparison, margin_db, cost_margin)):
            raise UserError(f"version {new.number} is not promoted over champion {old.number}: {'; '.join(reasons)}")
        lock = Lock(registry.client, registry.name)
        with lock.held():
            present = registry.get(f"@{CHAMPION}")
            if (present and present.number) != (old and old.number):
                continue
            _move(registry, lock, Change("promote", new.number, int(time.time()), _user()))
        _record_why(registry, new, old, comparison, margin_db)
        return old


def roll_back(registry: Registry) -> tuple[Version, Version]:
    """Make the champion before the present one champion again; returns the present one and that.

    Raises:
        UserError: there is none, or its model file is gone or damaged.
    """
    while True:
        present = registry.find(f"@{CHAMPION}")
        before = _before(registry, present.number)
        _check_readable(registry, before, "rolling back leads past it once it is deleted in MLflow")
        lock = Lock(registry.client, registry.name)
        with lock.held():
            if registry.find(f"@{CHAMPION}").number != present.number:
                continue
            _move(registry, lock, Change("rollback", before.number, int(time.time()), _user()))
        return present, before


def history(registry: Registry) -> list[Change]:
    """The champion's moves, the oldest first; MLflow keeps the last few dozen."""
    text = registry.client.get_registered_model(registry.name).tags.get(_HISTORY_TAG, "[]")
    return [Change(*values) for values in json.loads(text)]


def champions(changes: list[Change], present: int | None) -> list[int]:
    """Versions to which rolling back leads, one after the other, the last one first to go; it is the present one.

    An alias that was moved by hand counts as a promotion.
    """
    stack: list[int] = []
    for change in changes:
        if change.action == "rollback":
            while stack and stack[-1] != change.version:
                stack.pop()
        if not stack or stack[-1] != change.version:
            stack.append(change.version)
    if present is not None and (not stack or stack[-1] != present):
        stack.append(present)
    return stack


def _check_readable(registry: Registry, version: Version, mend: str = "") -> None:
    """Fetch and read a version's network, from the registry and not from this machine's copy of it."""
    try:
        with TemporaryDirectory() as folder:
            anysr.load(registry.fetch(version, Path(folder)))
    except (UserError, OSError, ValueError) as error:
        raise UserError(
            f"version {version.number} cannot be read: {one_line(error)}" + (f"; {mend}" if mend else "")
        ) from None


def _before(registry: Registry, present: int) -> Version:
    for number in reversed(champions(history(registry), present)[:-1]):
        version = registry.get(str(number))
        if version is not None:
            return version
    raise UserError(f"there is no champion before version {present} to roll back to; promote another version")


def _move(registry: Registry, lock: Lock, change: Change) -> None:
    """The alias first: the history follows it, and is mended by it where this process dies in between."""
    changes = history(registry)
    lock.check()
    registry.client.set_registered_model_alias(registry.name, CHAMPION, str(change.version))
    lock.check()
    kept = [*changes, change]
    while len(text := json.dumps([list(asdict(one).values()) for one in kept])) > _LONGEST_TAG:
        kept.pop(0)
    registry.client.set_registered_model_tag(registry.name, _HISTORY_TAG, text)


def _record_why(registry: Registry, new: Version, old: Version | None, found: Comparison | None, margin: float) -> None:
    why: dict[str, object] = {"over": old and old.number, "margin_db": margin, "by": _user(), "at": int(time.time())}
    if found is not None and found.worst is not None:
        why |= {"worst_db": round(found.worst.gain, 4), "worst_at": f"{found.worst.suite} x{found.worst.scale}"}
        why |= {"macs": [found.old_macs, found.new_macs], "protocol": found.protocol}
    registry.client.set_model_version_tag(registry.name, str(new.number), _WHY_TAG, json.dumps(why))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
