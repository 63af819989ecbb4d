"""Stage: trains one row's denoiser and leaves its weights, its averaged weights and its history."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from ldae.data.crops import random_resized_crop
from ldae.data.prepared import Latents, Split, choose_mirrored, flip, to_float
from ldae.parts.denoiser import Denoiser
from ldae.parts.loading import build
from ldae.runtime import ranks
from ldae.runtime.files import checksums, read_json, write_json, write_text
from ldae.runtime.randomness import Randomness
from ldae.runtime.weights import save_weights
from ldae.study.base import PATCH
from ldae.study.cost import pretrain_macs
from ldae.study.record import inputs_of, lineage, provenance
from ldae.study.stage_specs import PretrainStage
from ldae.training.loop import (
    BETAS,
    Averaged,
    Run,
    Source,
    compile_blocks,
    decayed,
    device_name,
    gradient_norm,
    history_text,
    learning_rate,
    pick_device,
    set_rate,
    trained,
)
from ldae.training.optimizer import AdamW

SMALLEST_CROP = 0.2  # of the area, of a random resized crop in pretraining (MAE)


class Pretraining:
    """A row's denoiser, its average and its optimizer."""

    def __init__(self, denoiser: Denoiser, stage: PretrainStage, micro_batch: int | None = None) -> None:
        """Prepares a denoiser for training; `micro_batch` is the most images of a forward pass, by default all."""
        self.denoiser, self.training, self.recipe = denoiser, stage.training, stage.recipe
        self.parallel = ranks.parallel(denoiser)
        self.micro_batch = micro_batch or stage.training.batch
        self.network = denoiser.network
        self.average = Averaged(self.network, self.training.ema)
        self.module = nn.ModuleDict({"network": self.network, "average": self.average.network})
        decay = self.training.weight_decay
        groups = decayed(self.network, decay) if decay else [{"params": self.network.parameters()}]
        self.optimizer = AdamW(groups, betas=BETAS)
        self.optimizers = [self.optimizer]

    def augment(self, inputs: Tensor, randomness: Randomness) -> Tensor:
        """What the denoiser is given of uint8 images (N, 3, S, S), or of cached latents with their mirror images'."""
        if inputs.dtype != torch.uint8:
            return choose_mirrored(inputs, randomness)
        if self.recipe.crop == "random":
            return random_resized_crop(to_float(inputs), randomness, SMALLEST_CROP, size=self.denoiser.grid * PATCH)
        return to_float(flip(inputs, randomness))

    def update(
        self, inputs: Tensor, labels: Tensor, randomness: Randomness, *, step: int, total: int
    ) -> dict[str, Tensor | float]:
        """One optimizer step on this rank's part of a batch: its loss, gradient norm and rate."""
        part = len(inputs)
        inputs = self.augment(inputs, randomness)
        draws = self.denoiser.draw(part, randomness)
        rate = learning_rate(step, total=total, peak=self.training.peak_rate, warmup=self.warmup)
        set_rate(self.optimizer, rate)
        loss = torch.zeros((), device=inputs.device)
        for start in range(0, part, self.micro_batch):
            micro = slice(start, start + self.micro_batch)
            sliced = type(draws)(*(draw[micro] for draw in draws))
            with ranks.apart(self.parallel, micro.stop < part):
                share = self.parallel(inputs[micro], labels[micro], sliced).sum() / part
                share.backward()
            loss += share.detach()
        norm = gradient_norm(self.network)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(step)
        return {"loss": loss, "gradient_norm": norm, "rate": rate}

    @property
    def warmup(self) -> float:
        """The share of the steps: longer trainings keep the number of them (paper, App. A: 100 epochs)."""
        return self.training.warmup / max(self.recipe.length, 1.0)


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
    inputs = inputs_of(dataset=dataset, tokenizer=tokenizer)
    identity = json.dumps([made, seed, inputs], sort_keys=True)
    images = Split.open(dataset, "train")
    source: Source = images.as_stored if stage.recipe.crop == "random" else images
    if stage.tokenizer.kind == "conv" and stage.recipe.crop == "center":
        source = Latents.open(tokenizer, images.labels)

    def start() -> Run:
        denoiser = build(stage, seed=seed, tokenizer=tokenizer, manifest=manifest).to(device)
        task = Pretraining(denoiser, stage, micro_batch)
        compile_blocks(denoiser.network.layers, device)
        training = stage.training
        steps = max(1, round(stage.recipe.length * training.total_steps(len(images))))
        return Run(
            task,
            title=row,
            seed=seed,
            total=steps,
            batch=training.batch,
            log_every=training.log_every,
            identity=identity,
        )

    with trained(start, source, identity=identity, resume=resume, checkpoint_seconds=checkpoint_seconds) as finished:
        if finished is None:
            return
        weights = finished["weights"]
        for name, part in (("model", "network."), ("ema", "average.")):
            tensors = {key.removeprefix(part): tensor for key, tensor in weights.items() if key.startswith(part)}
            save_weights(out / f"{name}.safetensors", tensors)
        write_text(out / "history.csv", history_text(finished["history"]))
        steps = int(finished["history"][-1].partition(",")[0])
        write_json(
            out / "run.json",
            {
                "row": row,
                "method": "denoiser",
                "seed": seed,
                "lineage": made,
                "inputs": inputs,
                "sha256": checksums(out / "model.safetensors", out / "ema.safetensors", out / "history.csv"),
                "parameters": sum(tensor.numel() for key, tensor in weights.items() if key.startswith("network.")),
                "training_flops": 6 * steps * stage.training.batch * pretrain_macs(stage, manifest["size"]),
                "provenance": provenance(device_name(device), import_seconds, training_seconds=finished["seconds"]),
            },
        )
