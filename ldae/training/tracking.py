"""Trackers that a training's history is told to as it grows: TensorBoard, Weights & Biases, trackio; none by default.

Each is a thin adapter, chosen by `tracking:` in the scale file, that is told what the history says and nothing else. An
attempt that goes on from a checkpoint begins by telling the history so far, so that a killed one leaves neither gap
nor duplicate. The choice reaches the jobs by their environment: no command names it and no lineage, and changing it
makes nothing run again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ldae.runtime.process import Rank
from ldae.runtime.progress import log
from ldae.study.checking import StudyError, listed, nearest

TRACKING = "LDAE_TRACKING"  # the variable, and for a command that a person has pasted the way to choose
PROJECT = "ldae"


class Training(NamedTuple):
    """What a tracker is told of a training beside its history."""

    title: str
    seed: int
    identity: str  # JSON: what it is made from
    folder: Path  # for what a tracker writes itself

    @property
    def key(self) -> str:
        """A short name that another attempt at the same training shares, and no other training has."""
        return hashlib.sha256(f"{self.title} {self.identity}".encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """For a person, and no other training's."""
        return f"{self.title}-seed{self.seed}-{self.key}"


class Tracker(Protocol):
    """Keeps the numbers of a training."""

    def add(self, step: int, values: dict[str, float]) -> None:
        """Notes what was measured by a step; steps come in order, from the history's first."""

    def close(self) -> None:
        """Writes what is still to be written."""


class TensorBoard:
    """Event files in the training's folder."""

    def __init__(self, training: Training) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for earlier in training.folder.glob("events.out.tfevents.*"):
            earlier.unlink()
        self.writer = SummaryWriter(str(training.folder))

    def add(self, step: int, values: dict[str, float]) -> None:
        """As `Tracker` says; on disk when it returns."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        """As `Tracker` says."""
        self.writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases: on its server, or in the training's folder, for `wandb sync` to send later."""

    def __init__(self, training: Training, *, mode: str | None = None) -> None:
        """With `mode` None the run is where WANDB_MODE says, by default on the server."""
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=training.name,
            id=training.key,
            resume="allow",
            dir=str(training.folder),
            config={"made_from": json.loads(training.identity)},
            mode=mode,
        )
        self.next = self.run.step  # what an earlier attempt has told the server, it would refuse to hear again

    def add(self, step: int, values: dict[str, float]) -> None:
        """As `Tracker` says."""
        if step >= self.next:
            self.run.log(values, step=step)

    def close(self) -> None:
        """As `Tracker` says."""
        self.run.finish()


class Trackio:
    """A run of trackio, in its own folder on this machine (TRACKIO_DIR)."""

    def __init__(self, training: Training) -> None:
        import trackio

        try:
            earlier = [run for run in trackio.Api().runs(PROJECT) if run.name == training.name]
        except ValueError:  # there is no such project yet
            earlier = []
        for run in earlier:
            run.delete()
        self.run = trackio.init(
            project=PROJECT, name=training.name, config={"made_from": json.loads(training.identity)}
        )

    def add(self, step: int, values: dict[str, float]) -> None:
        """As `Tracker` says."""
        self.run.log(values, step=step)

    def close(self) -> None:
        """As `Tracker` says."""
        self.run.finish()


def offline(training: Training) -> WeightsAndBiases:
    """Weights & Biases without its server."""
    return WeightsAndBiases(training, mode="offline")


TRACKERS: dict[str, tuple[str, Callable[[Training], Tracker]]] = {  # as the scale file names them: package, adapter
    "tensorboard": ("tensorboard", TensorBoard),
    "wandb": ("wandb", WeightsAndBiases),
    "wandb-offline": ("wandb", offline),
    "trackio": ("trackio", Trackio),
}


def check(names: Iterable[str]) -> None:
    """Refuses a tracker that there is not, or whose package is not installed, before anything is trained.

    Raises:
        StudyError: for the first of them.
    """
    for name in names:
        if name not in TRACKERS:
            raise StudyError(f"tracking: {name!r} is no tracker{nearest(name, TRACKERS)}; known: {listed(TRACKERS)}")
        package = TRACKERS[name][0]
        if importlib.util.find_spec(package) is None:
            raise StudyError(
                f"tracking: {name!r} needs the package {package!r}, which is not installed; install it (pip install "
                f"{package}), or take {name!r} out of the scale file"
            )


@contextmanager
def tracked(history: list[str], training: Training) -> Iterator[Callable[[], None]]:
    """Tells the chosen trackers a history's lines: those that it has now, and with each call those that are new.

    One that fails is said in the log and left out; the training goes on. Of several ranks only the first tells.

    Args:
        history: the lines of the CSV file, its header first; it grows outside.
        training: whose history it is.

    Raises:
        StudyError: for a tracker that there is not, or whose package is missing.
    """
    names = [name for name in os.environ.get(TRACKING, "").split(",") if name and not Rank.from_environment().number]
    check(names)
    trackers: dict[str, Tracker] = {}
    told = 0

    def attempt(name: str, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as error:  # whatever it is, a training is worth more than its tracker
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            log(f"{training.title}: {name} has failed and is told no more: {reason}")
            trackers.pop(name, None)
            return None

    def tell() -> None:
        nonlocal told
        for line in history[max(told, 1) :]:
            step, values = parsed(history[0], line)
            for name, tracker in list(trackers.items()):
                attempt(name, partial(tracker.add, step, values))
        told = len(history)

    training.folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        opened = attempt(name, partial(TRACKERS[name][1], training))
        if opened is not None:
            trackers[name] = opened
    tell()
    try:
        yield tell
    finally:
        for name, tracker in list(trackers.items()):
            attempt(name, tracker.close)


def parsed(header: str, line: str) -> tuple[int, dict[str, float]]:
    """A line of a history: its step, and what was measured by name."""
    step, _, *values = line.split(",")
    _, _, *names = header.split(",")
    return int(step), dict(zip(names, map(float, values), strict=True))
