"""What every kind of training shares: steps in a fixed order, rate schedule, averages, checkpoint, resume, history.

A training that is killed at any step and started again ends in the same bytes on a CPU: everything random in a step
follows from (seed, step), and a checkpoint holds all the rest.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ldae.data.prepared import Order
from ldae.runtime import ranks
from ldae.runtime.files import path_in_errors
from ldae.runtime.folder_lock import HEARTBEAT_SECONDS, heartbeat, sole_holder
from ldae.runtime.progress import log, progress
from ldae.runtime.randomness import Randomness, Stream, stream
from ldae.runtime.stopping import Stopped, stopping
from ldae.training.checkpoint import read_state, save_checkpoint
from ldae.training.optimizer import AdamW


class Source(Protocol):
    """Where batches come from: prepared images, or their cached latents."""

    def __len__(self) -> int:
        """The number of images."""

    def batch(self, indices: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs (n, ...) and labels (n,) at `indices`, on `device`."""


class Task(Protocol):
    """What is trained, and how a batch becomes a step."""

    @property
    def module(self) -> nn.Module:
        """All weights and averages that a step changes."""

    @property
    def optimizers(self) -> list[AdamW]:
        """Whose states a checkpoint keeps."""

    def update(
        self, inputs: Tensor, labels: Tensor, randomness: Randomness, *, step: int, total: int
    ) -> dict[str, Tensor | float]:
        """Takes step number `step` of `total` on this rank's part of a batch.

        Returns metrics for the history, `loss` among them; those of images are means over the part.
        """


class Run:
    """A training: a task, how far it is, and what it has noted."""

    def __init__(
        self, task: Task, *, title: str, seed: int, total: int, batch: int, log_every: int, identity: str
    ) -> None:
        """Starts at step 0 of `total`; only a checkpoint of the same `identity` (what it was made from) is resumed."""
        self.task, self.title, self.seed, self.total = task, title, seed, total
        self.batch, self.log_every, self.identity = batch, log_every, identity
        self.part = ranks.part_of(batch, f"{title}: batch")
        self.device = next(task.module.parameters()).device
        self.randomness = Randomness(self.device, part=ranks.number(), parts=ranks.size())
        self.step, self.seconds = 0, 0.0
        self.losses = torch.zeros((), device=self.device)  # summed up since the history's last line
        self.history: list[str] = []

    def update(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor | float]:
        """One step on this rank's part of a batch, and what it measured."""
        self.randomness.restart(self.seed, Stream.DRAWS, self.step)
        measured = self.task.update(inputs, labels, self.randomness, step=self.step, total=self.total)
        self.step += 1
        return measured

    def note(self, measured: dict[str, float]) -> None:
        """Adds a line to the history; a number that is none ends the run.

        Raises:
            ValueError: for a number that is not finite.
        """
        if not all(map(math.isfinite, measured.values())):
            said = ", ".join(f"{name} {value}" for name, value in measured.items())
            raise ValueError(
                f"{self.title}: {said} between steps {self.step - self.log_every} and {self.step}: "
                "training has diverged; lower the rate: recipe.rate of the row, or the scale's"
            )
        if not self.history:
            self.history.append(",".join(["step", "images", *measured]))
        values = [f"{value:.6g}" for value in measured.values()]
        self.history.append(",".join([str(self.step), str(self.step * self.batch), *values]))

    def results(self) -> dict[str, Any]:
        """What a finished run leaves."""
        return {
            "identity": self.identity,
            "weights": self.task.module.state_dict(),
            "history": self.history,
            "seconds": self.seconds,
        }

    def save(self, folder: Path) -> None:
        """Writes a checkpoint, keeping the one before it in case this one is damaged later; rank 0 does it for all."""
        if ranks.number():
            return
        path = folder / "checkpoint.pt"
        if path.exists():
            path.replace(folder / "previous.pt")
        optimizers = [optimizer.state_dict() for optimizer in self.task.optimizers]
        save_checkpoint(path, self.results() | {"optimizers": optimizers, "step": self.step, "losses": self.losses})

    def restore(self, folder: Path) -> None:
        """Goes on from the newest checkpoint of this very run that can be read, if there is one.

        It may have been written with another number of ranks.

        Raises:
            OSError: where ranks do not see the same files.
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


def batches(
    source: Source, order: Order, steps: range, batch: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's part of each step's batch; on an accelerator the next is read while the last is trained on."""
    part = batch // ranks.size()

    def read(step: int) -> tuple[Tensor, Tensor]:
        return source.batch(order.slice(step * batch + ranks.number() * part, part), device)

    if device.type == "cpu":
        yield from map(read, steps)
        return
    with ThreadPoolExecutor(1) as reader:
        ahead = [reader.submit(read, step) for step in steps[:1]]
        for step in steps:
            ready = ahead.pop().result()
            if step + 1 < steps.stop:
                ahead.append(reader.submit(read, step + 1))
            yield ready


def train(run: Run, source: Source, *, resume: Path, checkpoint_seconds: float) -> None:
    """Takes every step that is left, with checkpoints on the way; the history has the loss's mean between its lines.

    `history.csv` in the folder of checkpoints grows with the history, for readers of a training that runs.

    Raises:
        Stopped: once it has saved, when it was asked to stop or its time is nearly over.
    """
    order = Order(len(source), stream(run.seed, Stream.ORDER))
    first, before = run.step, run.seconds
    start = saved = beaten = time.monotonic()
    save_history(run.history, resume / "history.csv")
    with progress(run.title, run.total * run.batch, "images", first * run.batch) as bar:
        for inputs, labels in batches(source, order, range(first, run.total), run.batch, run.device):
            measured = run.update(inputs, labels)
            run.losses += measured["loss"]
            noted = run.step % run.log_every == 0
            if noted or run.step == run.total:
                count = run.log_every if noted else run.step % run.log_every
                values = averaged(measured | {"loss": run.losses.item() / count}, run.device)
                lines = len(run.history)
                run.note(values)
                save_history(run.history, resume / "history.csv", first=lines)
                run.losses.zero_()
                bar.note = f"loss {values['loss']:.4g}"
            bar.advance(run.batch)
            now = time.monotonic()
            run.seconds = before + now - start
            if now - beaten >= HEARTBEAT_SECONDS and not ranks.number():
                heartbeat(resume)
                beaten = now
            if run.step == run.total:
                break
            reason = stopping.asked()
            stops = ranks.any_reduce(reason is not None)
            if stops or ranks.any_reduce(now - saved >= checkpoint_seconds):
                run.losses.copy_(ranks.all_reduce_mean(run.losses))  # other ranks than these may go on with it
                if run.losses.isfinite():
                    run.save(resume)
                saved = now
            if stops:
                ranks.barrier()  # none leaves before rank 0 has saved: the others' end would end it too
                why = reason or "another rank was asked to"
                raise Stopped(f"{run.title}: saved and stopped at step {run.step} of {run.total}: {why}")


def averaged(measured: dict[str, Tensor | float], device: torch.device) -> dict[str, float]:
    """What a step has measured, as means over all ranks."""
    values = {name: float(value) for name, value in measured.items()}
    if ranks.size() == 1:
        return values
    means = ranks.all_reduce_mean(torch.tensor(list(values.values()), dtype=torch.float64, device=device))
    return dict(zip(values, means.tolist(), strict=True))


class Finished(NamedTuple):
    """A finished training, from rank 0."""

    weights: dict[str, dict[str, Tensor]]  # the state of each part of the task's module, e.g. `network` and `average`
    history: list[str]  # lines of CSV, the header first
    seconds: float  # of all attempts

    @property
    def steps(self) -> int:
        """The number of steps taken."""
        return int(self.history[-1].partition(",")[0])


@contextmanager
def trained(
    build: Callable[[], Task],
    source: Source,
    *,
    title: str,
    seed: int,
    total: int,
    batch: int,
    log_every: int,
    made_from: Any,
    resume: Path,
    checkpoint_seconds: float,
) -> Iterator[Finished | None]:
    """Trains, or resumes, under an exclusive lock that lasts while results are written; ranks other than 0 get None.

    Args:
        build: makes the task at its first step.
        source: of its batches.
        title: for messages.
        seed: of order and random draws.
        total: steps.
        batch: images a step, of all ranks together.
        log_every: steps from one line of the history to the next.
        made_from: all that the results depend on, as plain values; a checkpoint of another run is not resumed.
        resume: a folder for checkpoints that outlives failed attempts.
        checkpoint_seconds: between two checkpoints, at least.

    Raises:
        Stopped: once it has saved, when it was asked to stop or its time is nearly over.
        ValueError: when the loss is no longer a number.
    """
    leads, identity = not ranks.number(), json.dumps(made_from, sort_keys=True)
    with sole_holder(resume, log) if leads else nullcontext():
        ranks.barrier()  # the others wait here until rank 0 holds the folder
        path = resume / "finished.pt"
        state = read_state(path, identity, torch.device("cpu")) if leads else None
        if not ranks.broadcast(state is not None):
            run = Run(build(), title=title, seed=seed, total=total, batch=batch, log_every=log_every, identity=identity)
            run.restore(resume)
            train(run, source, resume=resume, checkpoint_seconds=checkpoint_seconds)
            if leads:
                state = run.results()
                save_checkpoint(path, state)
        for name in ("checkpoint.pt", "previous.pt") if leads else ():
            (resume / name).unlink(missing_ok=True)
        yield None if state is None else Finished(_by_part(state["weights"]), state["history"], state["seconds"])
        ranks.barrier()  # the others leave once rank 0 has written


def _by_part(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The state of each part of a module: `network.a.b` is `a.b` of the part `network`."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return parts


def history_text(lines: Iterable[str]) -> str:
    """The history as the text of a CSV file."""
    return "".join(f"{line}\n" for line in lines)


def save_history(lines: list[str], path: Path, *, first: int = 0) -> None:
    """Appends the lines from number `first` on to a CSV file, or starts the file with 0; rank 0 does it for all."""
    if ranks.number():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path_in_errors(path), path.open("a" if first else "w", encoding="utf-8") as file:
        file.write(history_text(lines[first:]))
