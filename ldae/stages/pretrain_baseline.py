"""Stage: pretrains an encoder with a method that the paper compares with, MAE or MoCo v3, by that method's recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from torch import Tensor

from ldae.data.augment import two_views
from ldae.data.crops import random_resized_crop
from ldae.data.prepared import Split, to_float
from ldae.parts.baselines.mae import MAE
from ldae.parts.baselines.moco import MoCo, momentum_at
from ldae.parts.denoiser import mixed_precision
from ldae.parts.loading import build_baseline
from ldae.runtime import ranks
from ldae.runtime.files import checksums, read_json, write_json, write_text
from ldae.runtime.randomness import Randomness
from ldae.runtime.weights import save_weights
from ldae.study.cost import baseline_macs
from ldae.study.recipes import MAETraining, MoCoTraining
from ldae.study.record import inputs_of, lineage, provenance
from ldae.study.stage_specs import BaselineStage
from ldae.training.loop import (
    BETAS,
    Run,
    compile_blocks,
    decayed,
    device_name,
    gradient_norm,
    history_text,
    learning_rate,
    pick_device,
    recompute_activations,
    set_rate,
    trained,
)
from ldae.training.optimizer import AdamW

SMALLEST_CROP = 0.2  # of the area, for MAE
MOCO_BETAS = (0.9, 0.999)  # MoCo v3 takes AdamW's defaults


class MAETask:
    """A masked autoencoder and its optimizer."""

    def __init__(self, module: MAE, training: MAETraining, size: int) -> None:
        """Prepares it for images of side `size`."""
        self.size = size
        self.module, self.training, self.parallel = module, training, ranks.parallel(module)
        groups = decayed(module, training.weight_decay)
        self.optimizers = [AdamW(groups, betas=BETAS)]

    def update(
        self, inputs: Tensor, labels: Tensor, randomness: Randomness, *, step: int, total: int
    ) -> dict[str, Tensor | float]:
        """One step on random crops of uint8 images (N, 3, S, S); labels are not looked at."""
        images = random_resized_crop(to_float(inputs), randomness, SMALLEST_CROP, size=self.size)
        masking = self.module.draw(len(images), randomness)
        rate = learning_rate(step, total=total, peak=self.training.peak_rate, warmup=self.training.warmup)
        set_rate(self.optimizers[0], rate)
        with mixed_precision(images.device):
            loss = self.parallel(images, masking).mean()
        loss.backward()
        norm = gradient_norm(self.module)
        self.optimizers[0].step()
        self.optimizers[0].zero_grad()
        return {"loss": loss.detach(), "gradient_norm": norm, "rate": rate}


class MoCoTask:
    """MoCo v3's networks, their momentum copies and the optimizer."""

    def __init__(self, module: MoCo, training: MoCoTraining, size: int) -> None:
        """Prepares them for images of side `size`."""
        self.size = size
        self.module, self.training, self.parallel = module, training, ranks.parallel(module)
        weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
        decaying = {"params": weights, "weight_decay": training.weight_decay}  # norms and biases too, as its authors do
        self.optimizers = [AdamW([decaying], betas=MOCO_BETAS)]

    def update(
        self, inputs: Tensor, labels: Tensor, randomness: Randomness, *, step: int, total: int
    ) -> dict[str, Tensor | float]:
        """One step on two views of uint8 images (N, 3, S, S); labels are not looked at."""
        first, second = two_views(to_float(inputs), randomness, size=self.size)
        rate = learning_rate(step, total=total, peak=self.training.peak_rate, warmup=self.training.warmup)
        set_rate(self.optimizers[0], rate)
        self.module.momentum_update(momentum_at(step / total))
        with mixed_precision(first.device):
            loss = self.parallel(first, second).mean()
        loss.backward()
        norm = gradient_norm(self.module)
        self.optimizers[0].step()
        self.optimizers[0].zero_grad()
        return {"loss": loss.detach(), "gradient_norm": norm, "rate": rate}


def pretrain_baseline(
    stage: BaselineStage,
    *,
    row: str,
    seed: int,
    revision: int,
    dataset: Path,
    resume: Path,
    out: Path,
    recompute: bool = False,
    checkpoint_seconds: float = 300.0,
    import_seconds: float = 0.0,
) -> None:
    """Writes the encoder, `model.safetensors`, `history.csv` and `run.json` into `out`.

    Args:
        stage: the method's recipe and the encoder's size.
        row: the row's name, for messages.
        seed: of initial weights, order and augmentation.
        revision: of the code that trains.
        dataset: the folder of the prepared images.
        resume: a folder for checkpoints that outlives failed attempts.
        out: where to write.
        recompute: whether activations are computed a second time rather than kept. It changes no number.
        checkpoint_seconds: between two checkpoints, at least.
        import_seconds: from the start of the process until now.
    """
    device, manifest = pick_device(), read_json(dataset / "manifest.json")
    images = Split.open(dataset, "train")
    made = lineage("pretrain", stage, revision, manifest["lineage"])
    inputs = inputs_of(dataset=dataset)
    identity = json.dumps([made, seed, inputs], sort_keys=True)
    training = stage.mae or stage.moco_v3
    assert training is not None

    def start() -> Run:
        module = build_baseline(stage, seed=seed, image_size=manifest["size"]).to(device)
        task = (
            MAETask(cast(MAE, module), training, images.size)
            if isinstance(training, MAETraining)
            else MoCoTask(cast(MoCo, module), training, images.size)
        )
        layers = cast(MAE | MoCo, module).layers
        if recompute:
            recompute_activations(layers)
        compile_blocks(layers, device)
        return Run(
            task,
            title=row,
            seed=seed,
            total=training.total_steps(len(images)),
            batch=training.batch,
            log_every=training.log_every,
            identity=identity,
        )

    with trained(
        start, images.as_stored, identity=identity, resume=resume, checkpoint_seconds=checkpoint_seconds
    ) as finished:
        if finished is None:
            return
        prefix = "encoder."
        encoder = {
            name.removeprefix(prefix): tensor for name, tensor in finished["weights"].items() if name.startswith(prefix)
        }
        save_weights(out / "model.safetensors", encoder)
        write_text(out / "history.csv", history_text(finished["history"]))
        steps = training.total_steps(len(images))
        write_json(
            out / "run.json",
            {
                "row": row,
                "method": "mae" if stage.mae is not None else "moco_v3",
                "seed": seed,
                "lineage": made,
                "inputs": inputs,
                "sha256": checksums(out / "model.safetensors", out / "history.csv"),
                "parameters": sum(tensor.numel() for tensor in encoder.values()),
                "training_flops": 6 * steps * training.batch * baseline_macs(stage, manifest["size"]),
                "provenance": provenance(device_name(device), import_seconds, training_seconds=finished["seconds"]),
            },
        )
