"""Stage: trains one row's denoiser and leaves its weights, its averaged weights and its history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldae.data.crops import random_resized_crop
from ldae.data.prepared import Latents, Split, choose_mirrored, flip, to_float
from ldae.parts.denoiser import Denoiser
from ldae.parts.loading import build
from ldae.runtime.device import compile_blocks, device_name, pick_device
from ldae.runtime.files import read_json, write_text
from ldae.runtime.randomness import Randomness
from ldae.runtime.weights import save_weights
from ldae.study.base import PATCH
from ldae.study.cost import pretrain_macs
from ldae.study.record import inputs_of, lineage, write_record
from ldae.study.stage_specs import PretrainStage
from ldae.training.loop import Source, history_text, trained
from ldae.training.step import Descent, decayed

SMALLEST_CROP = 0.2  # of the area, of a random resized crop in pretraining (MAE)


def pretraining(denoiser: Denoiser, stage: PretrainStage, micro_batch: int | None = None) -> Descent:
    """The training of a row's denoiser; `micro_batch` is the most images of a forward pass, by default all."""
    training, recipe = stage.training, stage.recipe

    def prepare(inputs: Tensor, labels: Tensor, randomness: Randomness) -> tuple[Any, ...]:
        """Of uint8 images (N, 3, S, S), or of cached latents of images and of their mirror images (N, 2, T, d)."""
        if inputs.dtype != torch.uint8:
            batch = choose_mirrored(inputs, randomness)
        elif recipe.crop == "random":
            batch = random_resized_crop(to_float(inputs), randomness, SMALLEST_CROP, size=denoiser.grid * PATCH)
        else:
            batch = to_float(flip(inputs, randomness))
        return batch, labels, denoiser.draw(len(inputs), randomness)

    network, decay = denoiser.network, training.weight_decay
    return Descent(
        denoiser,
        network,
        prepare,
        groups=decayed(network, decay) if decay else [{"params": network.parameters()}],
        peak=training.peak_rate,
        warmup=training.warmup / max(recipe.length, 1.0),  # longer trainings keep the number of steps (paper, App. A)
        ema=training.ema,
        micro_batch=micro_batch,
    )


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

    Raises:
        ValueError: when the loss is no longer a number.
    """
    device = pick_device()
    manifest = read_json(dataset / "manifest.json")
    made_from = lineage("pretrain", stage, revision, read_json(tokenizer / "tokenizer.json")["lineage"])
    inputs = inputs_of(dataset=dataset, tokenizer=tokenizer)
    images, training = Split.open(dataset, "train"), stage.training
    source: Source = images.as_stored if stage.recipe.crop == "random" else images
    if stage.tokenizer.traits.trained and stage.recipe.crop == "center":
        source = Latents.open(tokenizer, images.labels)

    def start() -> Descent:
        denoiser = build(stage, seed=seed, tokenizer=tokenizer, manifest=manifest).to(device)
        task = pretraining(denoiser, stage, micro_batch)
        compile_blocks(denoiser.network.layers, device)
        return task

    with trained(
        start,
        source,
        title=row,
        seed=seed,
        total=max(1, round(stage.recipe.length * training.total_steps(len(images)))),
        batch=training.batch,
        log_every=training.log_every,
        made_from=[made_from, seed, inputs],
        resume=resume,
        checkpoint_seconds=checkpoint_seconds,
    ) as finished:
        if finished is None:
            return
        files = {"network": out / "model.safetensors", "average": out / "ema.safetensors"}
        for part, file in files.items():
            save_weights(file, finished.weights[part])
        write_text(out / "history.csv", history_text(finished.history))
        images_seen = finished.steps * training.batch
        about = {
            "row": row,
            "method": "denoiser",
            "seed": seed,
            "parameters": sum(tensor.numel() for tensor in finished.weights["network"].values()),
            "training_flops": 6 * images_seen * pretrain_macs(stage, manifest["size"]),
        }
        write_record(
            out / "run.json",
            about,
            lineage=made_from,
            inputs=inputs,
            files=[*files.values(), out / "history.csv"],
            device=device_name(device),
            training_seconds=finished.seconds,
        )
