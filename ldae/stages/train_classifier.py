"""Stage: trains a small classifier with labels, whose features measure perceptual differences or judge samples."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldae.data.crops import random_resized_crop
from ldae.data.prepared import Split, to_float
from ldae.measures.classification import correct
from ldae.parts.classifiers import CLASSIFIERS
from ldae.parts.loading import INITIAL
from ldae.runtime.files import checksums, read_json, write_json, write_text
from ldae.runtime.randomness import Randomness, stream
from ldae.runtime.weights import save_weights
from ldae.study.record import inputs_of, lineage, provenance
from ldae.study.scale import Classifier
from ldae.study.stage_specs import ClassifierStage
from ldae.training.loop import Run, device_name, history_text, learning_rate, pick_device, set_rate, trained
from ldae.training.optimizer import AdamW

SMALLEST_CROP = 0.35  # of the area
WARMUP, WEIGHT_DECAY, SMOOTHING = 0.2, 0.05, 0.1  # chosen at laptop scale by accuracy on validation images
BETAS = (0.9, 0.999)  # of AdamW


class Labelling:
    """A classifier and its optimizer."""

    def __init__(self, network: nn.Module, recipe: Classifier, size: int) -> None:
        """Prepares a network for images of side `size`."""
        self.module, self.recipe, self.size = network, recipe, size
        self.optimizers = [AdamW([{"params": network.parameters(), "weight_decay": WEIGHT_DECAY}], betas=BETAS)]

    def update(
        self, inputs: Tensor, labels: Tensor, randomness: Randomness, *, step: int, total: int
    ) -> dict[str, Tensor | float]:
        """One step on random crops of uint8 images (N, 3, S, S) with labels (N,)."""
        images = random_resized_crop(to_float(inputs), randomness, SMALLEST_CROP, size=self.size)
        rate = learning_rate(step, total=total, peak=self.recipe.rate, warmup=WARMUP)
        set_rate(self.optimizers[0], rate)
        logits = self.module(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        self.optimizers[0].zero_grad()
        loss.backward()
        self.optimizers[0].step()
        right = (logits.argmax(1) == labels).float().mean()
        return {"loss": loss.detach(), "accuracy": right, "rate": rate}


def train_classifier(
    stage: ClassifierStage,
    *,
    revision: int,
    dataset: Path,
    resume: Path,
    out: Path,
    checkpoint_seconds: float = 300.0,
    import_seconds: float = 0.0,
) -> None:
    """Writes `weights.safetensors`, `history.csv` and `classifier.json` (its accuracy) into `out`.

    Args:
        stage: the architecture and its recipe.
        revision: of the code that trains.
        dataset: the folder of the prepared images.
        resume: a folder for checkpoints that outlives failed attempts.
        out: where to write.
        checkpoint_seconds: between two checkpoints, at least.
        import_seconds: from the start of the process until now.
    """
    device, manifest = pick_device(), read_json(dataset / "manifest.json")
    train, val = Split.open(dataset, "train"), Split.open(dataset, "val")
    recipe, classes = stage.classifier, len(manifest["classes"])
    made = lineage(stage.architecture, stage, revision, manifest["lineage"])
    inputs = inputs_of(dataset=dataset)
    identity = json.dumps([made, inputs], sort_keys=True)

    def new() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(recipe.seed, INITIAL))
            return CLASSIFIERS[stage.architecture](classes, recipe.width).to(device)

    def start() -> Run:
        return Run(
            Labelling(new(), recipe, train.size),
            title=f"classifier {stage.architecture}",
            seed=recipe.seed,
            total=recipe.steps,
            batch=recipe.batch,
            log_every=recipe.log_every,
            identity=identity,
        )

    with trained(
        start, train.as_stored, identity=identity, resume=resume, checkpoint_seconds=checkpoint_seconds
    ) as finished:
        if finished is None:
            return
        weights = {name: tensor.cpu().contiguous() for name, tensor in finished["weights"].items()}
        network = new()
        network.load_state_dict(weights)
        save_weights(out / "weights.safetensors", weights)
        write_text(out / "history.csv", history_text(finished["history"]))
        write_json(
            out / "classifier.json",
            {
                "architecture": stage.architecture,
                "width": recipe.width,
                "classes": classes,
                "accuracy": round(float(correct(network.eval(), val, device).mean()), 6),
                "lineage": made,
                "inputs": inputs,
                "sha256": checksums(out / "weights.safetensors"),
                "provenance": provenance(device_name(device), import_seconds, training_seconds=finished["seconds"]),
            },
        )
