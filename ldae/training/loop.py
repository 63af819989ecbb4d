"""The training loop of all stages: batches in a fixed order, checkpoints, resuming, history; `step.py` is its step.

On a CPU, a training that is killed at any step and resumed ends with the same bytes: all random numbers of a step
depend on (seed, step) alone, and a checkpoint holds the rest of the state.
"""

from __future__ import annotations

import json
import math
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ldae.data.prepared import Order
from ldae.runtime import ranks
from ldae.runtime.device import device_name, pick_device
from ldae.runtime.files import atomic_write, path_in_errors, write_text
from ldae.runtime.locking import HEARTBEAT_SECONDS, heartbeat, sole_holder
from ldae.runtime.progress import DIVERGED, log, progress
from ldae.runtime.randomness import Randomness, Stream, stream
from ldae.runtime.stopping import Stopped, stopping
from ldae.study.recipes import Training
from ldae.study.record import Options, write_record
from ldae.study.scale import Classifier, Convolutional
from ldae.training.step import AdamW


class BatchSource(Protocol):
    """A source of batches: prepared images, or their cached latents."""

    def __len__(self) -> int:
        """The number of images."""

    def batch(self, indices: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs (n, ...) and labels (n,) at `indices`, on `device`."""


class Task(Protocol):
    """The networks that are trained, and the step that trains them."""

    @property
    def module(self) -> nn.Module:
        """All weights and averaged weights that a step changes; a checkpoint stores its state."""

    @property
    def optimizers(self) -> list[AdamW]:
        """The optimizers; a checkpoint stores their states."""

    def update(
        self, inputs: Tensor, labels: Tensor, randomness: Randomness, *, step: int, total: int
    ) -> dict[str, Tensor | float]:
        """Takes step number `step` of `total` on this rank's part of a batch.

        Returns metrics for the history, `loss` first; those of images are means over the part.
        """


class TrainingRun:
    """The state of a training: its task, the number of steps taken, and its history."""

    def __init__(
        self, task: Task, *, title: str, seed: int, total: int, batch: int, log_every: int, identity: str
    ) -> None:
        """Starts at step 0 of `total`; only resumes from a checkpoint with the same `identity`."""
        self.task, self.title, self.seed, self.total = task, title, seed, total
        self.batch, self.log_every, self.identity = batch, log_every, identity
        self.part = ranks.part_of(batch, f"{title}: batch")
        self.device = next(task.module.parameters()).device
        self.randomness = Randomness(self.device, part=ranks.number(), parts=ranks.size())
        self.step, self.seconds = 0, 0.0
        self.losses = torch.zeros((), device=self.device)  # their sum since the last line of the history
        self.history: list[str] = []

    def update(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor | float]:
        """Takes one step on this rank's part of a batch; returns its metrics."""
        self.randomness.restart(self.seed, Stream.DRAWS, self.step)
        metrics = self.task.update(inputs, labels, self.randomness, step=self.step, total=self.total)
        self.step += 1
        return metrics

    def log_metrics(self, metrics: dict[str, Tensor | float], file: Path) -> float:
        """Adds a line to the history and to its file: means over all ranks, and of the loss since the last line.

        Returns the loss.

        Raises:
            ValueError: if a metric is not finite.
        """
        count = self.step % self.log_every or self.log_every  # steps since the last line
        values = [float(value) for value in (metrics | {"loss": self.losses.item() / count}).values()]
        means = ranks.all_reduce_mean(torch.tensor(values, dtype=torch.float64, device=self.device)).tolist()
        if not all(map(math.isfinite, means)):
            text = ", ".join(f"{name} {value}" for name, value in zip(metrics, means, strict=True))
            raise ValueError(
                f"{self.title}: {text} between steps {self.step - self.log_every} and {self.step}: "
                f"{DIVERGED}; lower the rate: recipe.rate of the row, or the scale's"
            )
        first = len(self.history)
        if not first:
            self.history.append(",".join(["step", "images", *metrics]))
        numbers = [f"{value:.6g}" for value in means]
        self.history.append(",".join([str(self.step), str(self.step * self.batch), *numbers]))
        save_history(self.history, file, first=first)
        self.losses.zero_()
        return float(means[0])

    def results(self) -> dict[str, Any]:
        """The content of `finished.pt`: identity, weights, history and seconds."""
        return {
            "identity": self.identity,
            "weights": self.task.module.state_dict(),
            "history": self.history,
            "seconds": self.seconds,
        }

    def save(self, folder: Path) -> None:
        """Writes a checkpoint on rank 0, and keeps the previous one in case the new one gets damaged."""
        if ranks.number():
            return
        path = folder / "checkpoint.pt"
        if path.exists():
            path.replace(folder / "previous.pt")
        optimizers = [optimizer.state_dict() for optimizer in self.task.optimizers]
        save_checkpoint(path, self.results() | {"optimizers": optimizers, "step": self.step, "losses": self.losses})

    def restore(self, folder: Path) -> None:
        """Resumes from the newest readable checkpoint with the same identity, if there is one.

        The number of ranks may differ from that of the run that wrote it.

        Raises:
            OSError: if the ranks do not see the same files.
        """
        for path in (folder / "checkpoint.pt", folder / "previous.pt"):
            state = read_state(path, self.identity, self.device)
            if ranks.broadcast(state is not None):
                if state is None:
                    raise OSError(f"{path}: rank 0 can read it, rank {ranks.number()} cannot; all need the same files")
                self.task.module.load_state_dict(state["weights"])
                for optimizer, saved in zip(self.task.optimizers, state["optimizers"], strict=True):
                    optimizer.load_state_dict(saved)
                self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
                self.losses.copy_(state["losses"])
                if not ranks.number():
                    log(f"resuming at step {self.step} from {path}")
                return


def batches(run: TrainingRun, source: BatchSource) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields this rank's part of each remaining batch; on an accelerator a thread reads the next one during a step."""
    order, steps = Order(len(source), stream(run.seed, Stream.ORDER)), range(run.step, run.total)

    def read(step: int) -> tuple[Tensor, Tensor]:
        return source.batch(order.slice(step * run.batch + ranks.number() * run.part, run.part), run.device)

    if run.device.type == "cpu":
        yield from map(read, steps)
        return
    with ThreadPoolExecutor(1) as reader:
        ahead = [reader.submit(read, step) for step in steps[:1]]
        for step in steps:
            ready = ahead.pop().result()
            if step + 1 < steps.stop:
                ahead.append(reader.submit(read, step + 1))
            yield ready


def train(run: TrainingRun, source: BatchSource, *, resume: Path, checkpoint_seconds: float) -> None:
    """Takes all remaining steps and saves checkpoints; each line of the history has the mean loss since the last line.

    `resume/history.csv` grows with the history, so that a running training can be plotted.

    Raises:
        Stopped: after saving, if the process was asked to stop or its time limit is near.
    """
    start = saved = last_heartbeat = time.monotonic()
    before, history = run.seconds, resume / "history.csv"
    save_history(run.history, history)
    with progress(run.title, run.total * run.batch, "images", run.step * run.batch) as bar:
        for inputs, labels in batches(run, source):
            metrics = run.update(inputs, labels)
            run.losses += metrics["loss"]
            if run.step % run.log_every == 0 or run.step == run.total:
                bar.note = f"loss {run.log_metrics(metrics, history):.4g}"
            bar.advance(run.batch)
            now = time.monotonic()
            run.seconds = before + now - start
            if now - last_heartbeat >= HEARTBEAT_SECONDS and not ranks.number():
                heartbeat(resume)
                last_heartbeat = now
            if run.step == run.total:
                break
            reason = stopping.asked()
            stops = ranks.any_reduce(reason is not None)
            if stops or ranks.any_reduce(now - saved >= checkpoint_seconds):
                run.losses.copy_(ranks.all_reduce_mean(run.losses))  # the resumed run may have another number of ranks
                if run.losses.isfinite():
                    run.save(resume)
                saved = now
            if stops:
                ranks.barrier()  # a rank that exits before rank 0 has saved would end rank 0 too
                why = reason or "another rank was asked to"
                raise Stopped(f"{run.title}: saved and stopped at step {run.step} of {run.total}: {why}")


@dataclass(frozen=True)
class TrainingResult:
    """The result of a finished training."""

    weights: dict[str, dict[str, Tensor]]  # the state of each part of the task's module, e.g. `network` and `average`
    history: list[str]  # lines of CSV, the header first
    seconds: float  # of all attempts

    def write_record(self, path: Path, about: dict[str, Any], *files: str) -> None:
        """Writes `history.csv` and then the record at `path`, with checksums of the named files beside it."""
        write_text(path.parent / "history.csv", "\n".join([*self.history, ""]))
        device = device_name(pick_device())
        write_record(path, about, [path.parent / name for name in files], device=device, training_seconds=self.seconds)


@contextmanager
def trained(
    build: Callable[[], Task],
    source: BatchSource,
    recipe: Training | Classifier | Convolutional,
    options: Options,
    origin: dict[str, Any],
    *,
    title: str,
    seed: int,
    steps: int,
) -> Iterator[TrainingResult | None]:
    """Trains or resumes, and holds an exclusive lock until the results are written; ranks other than 0 get None.

    `build` returns the task before its first step. `seed` decides the order of the images and all random draws. Only a
    checkpoint with the same `origin` (that of `origin_of`) and seed is resumed.

    Raises:
        Stopped: after saving, if the process was asked to stop or its time limit is near.
        ValueError: if a metric is not finite.
    """
    leads, identity = not ranks.number(), json.dumps([origin, seed], sort_keys=True)
    resume = options["resume"]
    with sole_holder(resume, log) if leads else nullcontext():
        ranks.barrier()  # the others wait here until rank 0 holds the folder
        path = resume / "finished.pt"
        state = read_state(path, identity, torch.device("cpu")) if leads else None
        if not ranks.broadcast(state is not None):
            batch, log_every = recipe.batch, recipe.log_every
            run = TrainingRun(
                build(), title=title, seed=seed, total=steps, batch=batch, log_every=log_every, identity=identity
            )
            run.restore(resume)
            train(run, source, resume=resume, checkpoint_seconds=options.get("checkpoint_seconds", 300.0))
            if leads:
                state = run.results()
                save_checkpoint(path, state)
        for name in ("checkpoint.pt", "previous.pt") if leads else ():
            (resume / name).unlink(missing_ok=True)
        yield None if state is None else TrainingResult(by_part(state["weights"]), state["history"], state["seconds"])
        ranks.barrier()  # the others leave once rank 0 has written


def by_part(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The state of each part of a module: `network.a.b` is `a.b` of the part `network`."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return parts


def save_history(lines: list[str], path: Path, *, first: int = 0) -> None:
    """Appends the lines from number `first` on to a CSV file, on rank 0; with `first` 0 it starts the file anew."""
    if ranks.number():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path_in_errors(path), path.open("a" if first else "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines[first:])


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values atomically; an `OSError` names the file if the disk is full."""
    with atomic_write(path) as partial:
        try:
            torch.save(state, partial)
        except RuntimeError as error:  # torch raises this for a full disk
            raise OSError(f"cannot be written; is the disk full? ({str(error).splitlines()[0]})") from None


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Reads a checkpoint without executing code from it; raises `ValueError` if the file is damaged.

    A checkpoint is a zip file with checksums. `torch.load` does not verify them and would return damaged weights.
    """
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} is damaged")
        if any(member.external_attr for member in archive.infolist()):
            raise ValueError("a tensor is marked as a folder")  # torch would return uninitialised memory
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def read_state(path: Path, identity: str, device: torch.device) -> dict[str, Any] | None:
    """Reads a checkpoint; returns None, and logs why, if it is damaged or belongs to another run."""
    if not path.exists():
        return None
    try:
        state = load_checkpoint(path, device)
    except Exception as error:  # torch raises a dozen different types for damaged files
        log(f"{path}: cannot be read ({type(error).__name__}); passed over")
        return None
    if state.get("identity") != identity:
        log(f"{path}: is of a run with another specification; passed over")
        return None
    return state
