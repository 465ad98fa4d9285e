"""A search from start to finish, as its driver sees it."""

from __future__ import annotations

import json
import secrets
import shlex
import time
from collections.abc import Callable
from typing import Any

from pipeline.config import OF_THE_NODE, TrainingConfig
from pipeline.config_file import changed_keys
from pipeline.data.photo_map import trained_on
from pipeline.errors import UserError
from pipeline.on_ray.submit import in_ray_job
from pipeline.output import outlasting_readers
from pipeline.run import placed
from pipeline.run_folder import SPACE_FILE, RunFolder
from pipeline.search.outputs import write_outputs
from pipeline.search.search import Search
from pipeline.search.space import Space
from pipeline.tracking.tracker import Tracker, open_tracker
from pipeline.train.loop import open_photos

Execute = Callable[[Search], None]

_FREE = ("trials", "concurrent")
_ROOM_BYTES = 50_000_000


@outlasting_readers()
def run_search(space: Space, execute: Execute) -> int:
    """Let ``execute`` run the trials, then write what came of them; returns the exit code.

    A search of the same name goes on: finished trials are kept, unfinished ones go on from their checkpoints.
    """
    config = placed(_named(space.reference()))
    folder = RunFolder(config.run.storage, str(config.run.name), config.data.cache)
    folder.prepare(_ROOM_BYTES)
    with folder.held(f"the search {config.run.name!r}"):
        folder.keep_to("search")
        _keep_description(folder, space)
        _check_photos(space)
        return _run(space, config, folder, execute)


def _run(space: Space, config: TrainingConfig, folder: RunFolder, execute: Execute) -> int:
    tracker = open_tracker(config, folder.place, in_ray_job())
    parent, status = tracker.sink.run_id, "FAILED"

    def open_trial(trial: TrainingConfig) -> Tracker:
        place = RunFolder(trial.run.storage, str(trial.run.name), trial.data.cache).place
        return open_tracker(trial, place, in_ray_job(), parent)

    try:
        search = Search(space, config, folder, open_trial)
        _announce(search, tracker)
        try:
            if not search.is_complete:
                execute(search)
        finally:
            search.interrupted()
        if not search.is_complete:
            raise UserError(f"the search ended early; go on with the same command and run.name={config.run.name}")
        files = write_outputs(folder.local, str(config.run.name), space, list(search.trials.values()))
        folder.send(*files)
        tracker.attach([folder.local / SPACE_FILE, *files])
        print(f"written: {', '.join(map(folder.shown, files))}")
        best = shlex.quote(folder.shown(folder.local / "best.yaml"))
        print(f"train the best: python jobs/train.py --local --config {best}", flush=True)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        print(f"stopped; go on with the same command and run.name={config.run.name}")
        raise
    finally:
        tracker.end(status)
    return 0


def _announce(search: Search, tracker: Tracker) -> None:
    ended = [trial for trial in search.trials.values() if trial.status != "running"]
    settings = search.space.settings
    print(f"search {search.config.run.name} in {search.folder.place}: {search.total} trials by {settings.sampler}")
    print(f"each trial may spend the compute of {search.config.train.steps} steps of the base configuration")
    if search.trials:
        print(f"going on: {len(ended)} trials have ended, {len(search.trials) - len(ended)} were cut short")
    print(tracker.describe(), flush=True)


def _named(config: TrainingConfig) -> TrainingConfig:
    name = config.run.name or f"search-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    return config.model_copy(update={"run": config.run.model_copy(update={"name": name})})


def _keep_description(folder: RunFolder, space: Space) -> None:
    """Refuse to go on with another space; more trials are welcome."""
    recorded, now = folder.read(SPACE_FILE), space.describe()
    if recorded is not None:
        try:
            before = _decisive(json.loads(recorded))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{folder.place}/{SPACE_FILE} is damaged ({type(error).__name__}); remove it if the space is still the "
                "same: it will be made anew"
            ) from None
        if changes := changed_keys(before, _decisive(now)):
            raise UserError(
                f"the search in {folder.place} has another space ({'; '.join(changes)}); choose a new run.name"
            )
    folder.write(SPACE_FILE, json.dumps(now, indent=1) + "\n")


def _decisive(described: dict[str, Any]) -> dict[str, Any]:
    """What of a space's description makes it another search."""
    base = {key: value for key, value in described["base"].items() if key not in ("run", "ray", "tracking")}
    base["data"] = {key: value for key, value in base.get("data", {}).items() if key not in OF_THE_NODE}
    settings = {key: value for key, value in described["search"].items() if key not in _FREE}
    return {**described, "base": base, "search": settings}


def _check_photos(space: Space) -> None:
    """Decode the photos before the first trial, at the size that the greediest trial needs."""
    photos = open_photos(max([space.reference(), *space.corner_configs], key=lambda config: config.hr_crop_px))
    if (overlap := trained_on(*photos)) is not None:
        print(overlap)
