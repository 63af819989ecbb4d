"""Copies the histories of trainings, finished or running, to TensorBoard, Weights & Biases or trackio.

A tracker is a reader: trainings know nothing of it, and it can fail or start late without harm.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ldae.runtime.files import read_json, write_json
from ldae.runtime.progress import log

FOLDER = "tracking"  # in the results folder: the last step in each tracker, and the files of TensorBoard and W&B
PROJECT = "ldae"
SECONDS = 10.0  # between two looks at running trainings


class TensorBoard:
    """A run of TensorBoard, with the methods of a run of W&B."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary import Writer

        self.writer = Writer(str(folder))
        self.finish = self.writer.close

    def log(self, values: dict[str, float], step: int) -> None:
        """Adds a scalar for each value."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()


def _wandb(run: str, folder: Path) -> Any:
    import wandb

    options = {"project": os.environ.get("WANDB_PROJECT", PROJECT), "resume": "allow", "reinit": "create_new"}
    settings = {"console": "off", "silent": True, "x_disable_stats": True, "save_code": False}
    return wandb.init(id=run, name=run, dir=str(folder), settings=settings, **options)


def _trackio(run: str, folder: Path) -> Any:
    import trackio

    quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
    return trackio.init(project=PROJECT, name=run, resume="allow", **quiet)


TRACKERS: dict[str, Callable[[str, Path], Any]] = {  # by the names of their packages; each starts or resumes a run
    "tensorboard": lambda run, folder: TensorBoard(folder / "tensorboard" / run),
    "wandb": _wandb,
    "trackio": _trackio,
}


class History(NamedTuple):
    """The history of a training so far."""

    run: str  # a name for the tracker, unique to this training
    running: bool  # as far as the files tell
    steps: list[tuple[int, dict[str, float]]]


def track(results: Path, name: str, *, follow: bool = False) -> None:
    """Copies to a tracker all steps of the histories in a results folder that it does not have yet.

    Args:
        results: a folder of one scale, such as `results/laptop`.
        name: of the tracker's package.
        follow: goes on until it is interrupted, and also copies what trainings measure meanwhile.

    Raises:
        ValueError: if the package is missing, the tracker fails, or there is no history.
    """
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"--to: {name} is not installed; install it with `pip install {name}`")
    folder = results / FOLDER
    record = folder / f"{name}.json"
    last: dict[str, int] = read_json(record) if record.is_file() else {}
    runs: dict[str, Any] = {}
    try:
        while True:
            for history in histories(results):
                new = [step for step in history.steps if step[0] > last.get(history.run, -1)]
                try:
                    if new and history.run not in runs:
                        folder.mkdir(exist_ok=True)
                        runs[history.run] = TRACKERS[name](history.run, folder)
                    for step, values in new:
                        runs[history.run].log(values, step=step)
                    if history.run in runs and not (follow and history.running):
                        runs.pop(history.run).finish()
                except Exception as error:
                    message = " ".join(str(error).split()) or type(error).__name__
                    raise ValueError(f"{name} fails: {message}") from error
                if new:
                    last[history.run] = new[-1][0]
                    write_json(record, last)
                    log(f"{history.run}: {len(new)} lines, up to step {new[-1][0]}")
            if not follow:
                break
            time.sleep(SECONDS)
    finally:
        for run in runs.values():
            run.finish()
    if not last:
        raise ValueError(f"{results}: there is no history.csv of a training")


def histories(results: Path) -> Iterator[History]:
    """The histories in a results folder; the newest one of a training that was started again.

    Raises:
        ValueError: for a file that is not a history.
    """
    paths = sorted(results.rglob("history.csv"), key=lambda path: path.stat().st_mtime)
    newest = {path.parent.relative_to(results).as_posix().removeprefix("resume/"): path for path in paths}
    for place, path in sorted(newest.items()):
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # a line without its end is still being written
        if len(lines) < 2:
            continue
        try:
            names = lines[0].split(",")[2:]
            rows = [line.split(",") for line in lines[1:]]
            steps = [(int(row[0]), dict(zip(names, map(float, row[2:]), strict=True))) for row in rows]
        except ValueError as error:
            raise ValueError(f"{path}: is not the history of a training ({error})") from None
        # with other settings or another seed, a training starts with other numbers
        digest = hashlib.sha256("\n".join([place, *lines[:2]]).encode()).hexdigest()[:8]
        yield History(f"{place.replace('/', '-')}-{digest}", path.is_relative_to(results / "resume"), steps)
