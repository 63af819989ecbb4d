"""What every kind of training shares: steps in a fixed order, rate schedule, averages, checkpoint, resume, history.

A training that is killed at any step and started again ends in the same bytes on a CPU: everything random in a step
follows from (seed, step), and a checkpoint holds all the rest.
"""

from __future__ import annotations

import copy
import math
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldae.data.prepared import Order
from ldae.runtime import ranks
from ldae.runtime.files import atomic_write, path_in_errors
from ldae.runtime.machine import cpu_name
from ldae.runtime.process import HEARTBEAT_SECONDS, Stopped, beat, sole_holder, stopping
from ldae.runtime.progress import log, progress
from ldae.runtime.randomness import Randomness, stream
from ldae.training.optimizer import AdamW

ORDER, DRAWS = 1, 2  # streams of randomness, beside the initial weights'
BETAS = (0.9, 0.95)  # of AdamW; the paper names none, RCG's training "with the scheme of l-DAE" uses these


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
        """Takes a step, counted from 0, of `total`, on this rank's part of a batch.

        What it measured is worth a line in the history, the loss first; of images it is the mean over the part.
        """


def pick_device() -> torch.device:
    """The accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The name of the processor or accelerator."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name()


def compile_blocks(blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Compiles a network's blocks in place on an accelerator; they are alike, so that one compilation serves all.

    On a CPU it would take longer than it saves.
    """
    if device.type == "cuda":
        for block in blocks:
            block.compile(dynamic=False)  # one that serves several shapes would be slower


def recompute_activations(blocks: Iterable[nn.Module]) -> None:
    """Lets blocks compute their activations again for the backward pass instead of keeping them.

    A third slower, in a fraction of the memory, with the same numbers: for trainings that cannot split their batch.
    """
    for block in blocks:
        setattr(block, "forward", partial(checkpoint, block.forward, use_reentrant=False))  # noqa: B010


def learning_rate(step: int, *, total: int, peak: float, warmup: float) -> float:
    """The rate of a step: linear warm-up over a share `warmup` of all steps, then half a cosine to zero (App. A)."""
    warm = warmup * total
    if step < warm:
        return peak * (step + 1) / (math.floor(warm) + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


def set_rate(optimizer: AdamW, rate: float) -> None:
    """Sets the learning rate of all weights."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def decayed(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: matrices decay, biases and norms do not (MAE)."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


class Averaged:
    """An exponential moving average of a network's weights, whose decay is warmed up: min(decay, (1 + s)/(10 + s))."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._ours: list[Tensor] = list(self.network.parameters())
        self._theirs: list[Tensor] = list(network.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the weights after `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._ours, self._theirs, 1 - decay)


def gradient_norm(network: nn.Module) -> Tensor:
    """The Euclidean norm of all gradients, as a scalar tensor."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return torch.stack(torch._foreach_norm(gradients)).norm()


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
        self.randomness.restart(self.seed, DRAWS, self.step)
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
            if ranks.agreed(state is not None):
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


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values whole; an `OSError` names the file where the disk has no room for it."""
    with atomic_write(path) as partial:
        try:
            torch.save(state, partial)
        except RuntimeError as error:  # which is what torch makes of a full disk
            raise OSError(f"cannot be written; is the disk full? ({str(error).splitlines()[0]})") from None


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Reads a checkpoint; nothing in it is executed, and a `ValueError` tells that bits of it have changed.

    It is a zip file with checksums, which torch itself does not look at: it would go on with damaged weights.
    """
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} is damaged")
        if any(member.external_attr for member in archive.infolist()):
            raise ValueError("a tensor is marked as a folder")  # torch would leave its memory as it is found
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def read_state(path: Path, identity: str, device: torch.device) -> dict[str, Any] | None:
    """A checkpoint, or None, said in the log, where it is damaged or of another run."""
    if not path.exists():
        return None
    try:
        state = load_checkpoint(path, device)
    except Exception as error:  # torch names a dozen kinds for a damaged file
        log(f"{path}: cannot be read ({type(error).__name__}); passed over")
        return None
    if state.get("identity") != identity:
        log(f"{path}: is of a run with another specification; passed over")
        return None
    return state


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
    order = Order(len(source), stream(run.seed, ORDER))
    first, before = run.step, run.seconds
    start = saved = beaten = time.monotonic()
    save_history(run.history, resume / "history.csv")
    with progress(run.title, run.total * run.batch, "images", first * run.batch) as bar:
        for inputs, labels in batches(source, order, range(first, run.total), run.batch, run.device):
            measured = run.update(inputs, labels)
            run.losses += next(iter(measured.values()))
            noted = run.step % run.log_every == 0
            if noted or run.step == run.total:
                count = run.log_every if noted else run.step % run.log_every
                values = averaged(measured | {next(iter(measured)): run.losses.item() / count}, run.device)
                lines = len(run.history)
                run.note(values)
                save_history(run.history, resume / "history.csv", first=lines)
                run.losses.zero_()
                bar.note = f"loss {next(iter(values.values())):.4g}"
            bar.advance(run.batch)
            now = time.monotonic()
            run.seconds = before + now - start
            if now - beaten >= HEARTBEAT_SECONDS and not ranks.number():
                beat(resume)
                beaten = now
            if run.step == run.total:
                break
            reason = stopping.asked()
            stops = ranks.any_of(reason is not None)
            if stops or ranks.any_of(now - saved >= checkpoint_seconds):
                run.losses.copy_(ranks.mean(run.losses))  # other ranks than these may go on with it
                if run.losses.isfinite():
                    run.save(resume)
                saved = now
            if stops:
                ranks.agreed(0)  # none leaves before rank 0 has saved: the others' end would end it too
                why = reason or "another rank was asked to"
                raise Stopped(f"{run.title}: saved and stopped at step {run.step} of {run.total}: {why}")


def averaged(measured: dict[str, Tensor | float], device: torch.device) -> dict[str, float]:
    """What a step has measured, as means over all ranks."""
    values = {name: float(value) for name, value in measured.items()}
    if ranks.size() == 1:
        return values
    means = ranks.mean(torch.tensor(list(values.values()), dtype=torch.float64, device=device))
    return dict(zip(values, means.tolist(), strict=True))


@contextmanager
def trained(
    build: Callable[[], Run], source: Source, *, identity: str, resume: Path, checkpoint_seconds: float
) -> Iterator[dict[str, Any] | None]:
    """The results of a training, held alone while they are written: of one that was finished before, or of this one.

    Rank 0 alone is given them, for it writes for all; the others get None.

    Args:
        build: makes the run at its first step.
        source: of its batches.
        identity: what it is made from.
        resume: a folder for checkpoints that outlives failed attempts.
        checkpoint_seconds: between two checkpoints, at least.
    """
    leads = not ranks.number()
    with sole_holder(resume, log) if leads else nullcontext():
        ranks.agreed(0)  # the others wait here until rank 0 holds the folder
        path = resume / "finished.pt"
        finished = read_state(path, identity, torch.device("cpu")) if leads else None
        if not ranks.agreed(finished is not None):
            run = build()
            run.restore(resume)
            train(run, source, resume=resume, checkpoint_seconds=checkpoint_seconds)
            if leads:
                finished = run.results()
                save_checkpoint(path, finished)
        for name in ("checkpoint.pt", "previous.pt") if leads else ():
            (resume / name).unlink(missing_ok=True)
        yield finished
        ranks.agreed(0)  # the others leave once rank 0 has written


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
