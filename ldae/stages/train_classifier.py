"""Stage: trains a small classifier with labels, whose features measure perceptual differences or judge samples."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldae.data.crops import random_resized_crop
from ldae.data.prepared import Split, to_float
from ldae.measures.classification import correct
from ldae.parts.classifiers import CLASSIFIERS
from ldae.runtime.device import device_name, pick_device
from ldae.runtime.files import read_json, write_text
from ldae.runtime.randomness import Randomness, Stream, stream
from ldae.runtime.weights import save_weights
from ldae.study.record import inputs_of, lineage, write_record
from ldae.study.scale import Classifier
from ldae.study.stage_specs import ClassifierStage
from ldae.training.loop import history_text, trained
from ldae.training.step import Descent

SMALLEST_CROP = 0.35  # of the area
WARMUP, WEIGHT_DECAY, SMOOTHING = 0.2, 0.05, 0.1  # chosen at laptop scale by accuracy on validation images
BETAS = (0.9, 0.999)  # of AdamW


class Labelling(nn.Module):
    """The losses of a classifier."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy (N,) of images (N, 3, S, S) in [-1, 1] with labels (N,)."""
        return F.cross_entropy(self.network(images), labels, label_smoothing=SMOOTHING, reduction="none")


def labelling(network: nn.Module, recipe: Classifier, size: int) -> Descent:
    """The training of a classifier for images of side `size`."""

    def prepare(inputs: Tensor, labels: Tensor, randomness: Randomness) -> tuple[Tensor, Tensor]:
        return random_resized_crop(to_float(inputs), randomness, SMALLEST_CROP, size=size), labels

    groups = [{"params": network.parameters(), "weight_decay": WEIGHT_DECAY}]
    return Descent(Labelling(network), network, prepare, groups=groups, peak=recipe.rate, warmup=WARMUP, betas=BETAS)


def train_classifier(
    stage: ClassifierStage,
    *,
    revision: int,
    dataset: Path,
    resume: Path,
    out: Path,
    checkpoint_seconds: float = 300.0,
) -> None:
    """Writes `weights.safetensors`, `history.csv` and `classifier.json` (its accuracy) into `out`.

    Args:
        stage: the architecture and its recipe.
        revision: of the code that trains.
        dataset: the folder of the prepared images.
        resume: a folder for checkpoints that outlives failed attempts.
        out: where to write.
        checkpoint_seconds: between two checkpoints, at least.
    """
    device, manifest = pick_device(), read_json(dataset / "manifest.json")
    train, val = Split.open(dataset, "train"), Split.open(dataset, "val")
    recipe, classes = stage.classifier, len(manifest["classes"])
    made_from = lineage(stage.architecture, stage, revision, manifest["lineage"])
    inputs = inputs_of(dataset=dataset)

    def new() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(recipe.seed, Stream.INITIAL))
            return CLASSIFIERS[stage.architecture](classes, recipe.width).to(device)

    with trained(
        lambda: labelling(new(), recipe, train.size),
        train.as_stored,
        title=f"classifier {stage.architecture}",
        seed=recipe.seed,
        total=recipe.steps,
        batch=recipe.batch,
        log_every=recipe.log_every,
        made_from=[made_from, inputs],
        resume=resume,
        checkpoint_seconds=checkpoint_seconds,
    ) as finished:
        if finished is None:
            return
        weights = {name: tensor.cpu().contiguous() for name, tensor in finished.weights["network"].items()}
        network = new()
        network.load_state_dict(weights)
        save_weights(out / "weights.safetensors", weights)
        write_text(out / "history.csv", history_text(finished.history))
        about = {
            "architecture": stage.architecture,
            "width": recipe.width,
            "classes": classes,
            "accuracy": round(float(correct(network.eval(), val, device).mean()), 6),
        }
        write_record(
            out / "classifier.json",
            about,
            lineage=made_from,
            inputs=inputs,
            files=[out / "weights.safetensors"],
            device=device_name(device),
            training_seconds=finished.seconds,
        )
