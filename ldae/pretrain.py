"""Stage: trains one row's denoiser and leaves its weights, its averaged weights and its history.

A run that is killed at any step and started again ends in the same bytes on a CPU: everything random in a step follows
from (seed, step), and a checkpoint holds all the rest.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ldae.dataset import Order, Split, flip, stream, to_float
from ldae.denoiser import Denoiser
from ldae.files import read_json, whole, write_json, write_text
from ldae.model import build
from ldae.process import beat, sole_holder
from ldae.progress import log, progress
from ldae.record import lineage, provenance
from ldae.spec import PretrainStage
from ldae.training import (
    Averaged,
    device_name,
    gradient_norm,
    learning_rate,
    load_checkpoint,
    pick_device,
    save_checkpoint,
)

BETAS = (0.9, 0.95)  # of AdamW; the paper names none, RCG's training "with the scheme of l-DAE" uses these
ORDER, DRAWS = 1, 2  # streams of randomness, beside the initial weights'
HISTORY = "step,images,loss,gradient_norm,rate"


class Run:
    """A training run: everything that changes from step to step."""

    def __init__(self, denoiser: Denoiser, stage: PretrainStage, *, seed: int, total: int, identity: str) -> None:
        """Starts at step 0 of `total`; only a checkpoint of the same `identity` (what it was made from) is resumed."""
        self.denoiser, self.seed, self.total, self.identity = denoiser, seed, total, identity
        self.training = stage.training
        self.network = denoiser.network
        self.average = Averaged(self.network, self.training.ema)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.0, betas=BETAS, weight_decay=0.0, fused=True)
        self.device = next(self.network.parameters()).device
        self.generator = torch.Generator(self.device)
        self.step, self.seconds = 0, 0.0
        self.history: list[str] = []

    def update(self, images: Tensor, labels: Tensor, micro_batch: int) -> tuple[Tensor, Tensor, float]:
        """One optimizer step on a batch; its loss, gradient norm and rate."""
        training, batch = self.training, len(images)
        self.generator.manual_seed(stream(self.seed, DRAWS, self.step))
        images = to_float(flip(images, self.generator))
        draws = self.denoiser.draw(batch, self.generator)
        peak = training.rate * batch / 256
        rate = learning_rate(self.step, total=self.total, peak=peak, warmup=training.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = torch.zeros((), device=self.device)
        for start in range(0, batch, micro_batch):
            part = slice(start, start + micro_batch)
            sliced = type(draws)(*(draw[part] for draw in draws))
            share = self.denoiser(images[part], labels[part], sliced).sum() / batch
            share.backward()
            loss += share.detach()
        norm = gradient_norm(self.network)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.step)
        self.step += 1
        return loss, norm, rate

    def note(self, loss: float, norm: float, rate: float, row: str) -> None:
        """Adds a line to the history; a loss or gradient that is no number ends the run."""
        if not math.isfinite(loss) or not math.isfinite(norm):
            since = self.step - self.training.log_every
            raise ValueError(
                f"{row}: loss {loss}, gradient norm {norm} between steps {since} and {self.step}: "
                f"training has diverged; lower training.rate (now {self.training.rate}) in the scale file"
            )
        images = self.step * self.training.batch
        self.history.append(f"{self.step},{images},{loss:.6g},{norm:.6g},{rate:.6g}")

    def results(self) -> dict[str, Any]:
        """What a finished run leaves."""
        return {
            "identity": self.identity,
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "history": self.history,
            "seconds": self.seconds,
        }

    def save(self, folder: Path) -> None:
        """Writes a checkpoint, keeping the one before it in case this one is damaged later."""
        path = folder / "checkpoint.pt"
        if path.exists():
            path.replace(folder / "previous.pt")
        save_checkpoint(path, self.results() | {"optimizer": self.optimizer.state_dict(), "step": self.step})

    def restore(self, folder: Path) -> None:
        """Goes on from the newest checkpoint of this very run that can be read, if there is one."""
        for path in (folder / "checkpoint.pt", folder / "previous.pt"):
            state = read_state(path, self.identity, self.device)
            if state is not None:
                self.network.load_state_dict(state["network"])
                self.average.network.load_state_dict(state["average"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
                log(f"resuming at step {self.step} from {path}")
                return


def read_state(path: Path, identity: str, device: torch.device) -> dict[str, Any] | None:
    """A checkpoint, or None, said in the log, where it is damaged or of another run."""
    if not path.exists():
        return None
    try:
        state = load_checkpoint(path, device)
    except Exception as error:  # torch names a dozen kinds for a damaged file
        log(f"{path}: cannot be read ({type(error).__name__}); passed over")
        return None
    if state["identity"] != identity:
        log(f"{path}: is of a run with another specification; passed over")
        return None
    return state


def batches(
    train: Split, order: Order, steps: range, batch: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batch of each step; on an accelerator the next one is read while the last one is trained on."""
    if device.type == "cpu":
        for step in steps:
            yield train.batch(order.slice(step * batch, batch), device)
        return
    with ThreadPoolExecutor(1) as reader:
        ahead = [reader.submit(train.batch, order.slice(steps.start * batch, batch), device)] if steps else []
        for step in steps:
            ready = ahead.pop().result()
            if step + 1 < steps.stop:
                ahead.append(reader.submit(train.batch, order.slice((step + 1) * batch, batch), device))
            yield ready


def train(run: Run, images: Split, *, row: str, resume: Path, micro_batch: int, checkpoint_seconds: float) -> None:
    """Takes every step that is left, with checkpoints on the way."""
    training = run.training
    order = Order(len(images), stream(run.seed, ORDER))
    first, before = run.step, run.seconds
    start = saved = time.monotonic()
    losses = torch.zeros((), device=run.device)
    with progress(row, run.total * training.batch, "images", first * training.batch) as bar:
        for batch in batches(images, order, range(first, run.total), training.batch, run.device):
            loss, norm, rate = run.update(*batch, micro_batch)
            losses += loss
            noted = run.step % training.log_every == 0
            if noted or run.step == run.total:
                mean = losses.item() / (training.log_every if noted else run.step % training.log_every)
                run.note(mean, norm.item(), rate, row)
                losses.zero_()
                beat(resume)
                bar.note = f"loss {mean:.4f}"
            bar.advance(len(batch[1]))
            run.seconds = before + time.monotonic() - start
            if noted and run.step < run.total and time.monotonic() - saved >= checkpoint_seconds:
                run.save(resume)
                saved = time.monotonic()


def pretrain(
    stage: PretrainStage,
    *,
    row: str,
    seed: int,
    revision: int,
    dataset: Path,
    tokenizer: Path,
    resume: Path,
    out: Path,
    micro_batch: int | None = None,
    checkpoint_seconds: float = 300.0,
    import_seconds: float = 0.0,
) -> None:
    """Trains a row, or goes on where its last attempt stopped.

    Args:
        stage: what pretraining reads of the row and the scale.
        row: the row's name, for messages.
        seed: of initial weights, order and noise.
        revision: of the code that trains.
        dataset, tokenizer: folders of earlier stages.
        resume: a folder for checkpoints that outlives failed attempts.
        out: gets `model.safetensors`, `ema.safetensors`, `history.csv` and `run.json`.
        micro_batch: images a forward pass, at most; None for the whole batch. It changes no number but by rounding.
        checkpoint_seconds: between two checkpoints, at least.
        import_seconds: from the start of the process until now.

    Raises:
        ValueError: when the loss is no longer a number.
    """
    device = pick_device()
    manifest = read_json(dataset / "manifest.json")
    made = lineage("pretrain", stage, revision, read_json(tokenizer / "tokenizer.json")["lineage"])
    identity = json.dumps([made, seed], sort_keys=True)
    images = Split.open(dataset, "train")
    with sole_holder(resume, log):
        finished = read_state(resume / "finished.pt", identity, torch.device("cpu"))
        if finished is None:
            denoiser = build(stage, seed=seed, tokenizer=tokenizer, manifest=manifest).to(device)
            run = Run(denoiser, stage, seed=seed, total=stage.training.total_steps(len(images)), identity=identity)
            run.restore(resume)
            if device.type == "cuda":
                for block in run.network.layers:
                    block.compile()
            batch = micro_batch or stage.training.batch
            train(run, images, row=row, resume=resume, micro_batch=batch, checkpoint_seconds=checkpoint_seconds)
            finished = run.results()
            save_checkpoint(resume / "finished.pt", finished)
        for name in ("checkpoint.pt", "previous.pt"):
            (resume / name).unlink(missing_ok=True)
        for name, weights in (("model", finished["network"]), ("ema", finished["average"])):
            with whole(out / f"{name}.safetensors") as partial:
                save_file({key: tensor.cpu().contiguous() for key, tensor in weights.items()}, partial)
        write_text(out / "history.csv", "\n".join([HISTORY, *finished["history"]]) + "\n")
        parameters = sum(tensor.numel() for tensor in finished["network"].values())
        write_json(
            out / "run.json",
            {
                "row": row,
                "seed": seed,
                "lineage": made,
                "parameters": parameters,
                "provenance": provenance(device_name(device), import_seconds, training_seconds=finished["seconds"]),
            },
        )
