"""Stage: trains a small classifier with labels, whose features measure perceptual differences or judge samples."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldae.data.crops import random_resized_crop
from ldae.data.prepared import Split, to_float
from ldae.measures.classification import correct
from ldae.parts.classifiers import CLASSIFIERS
from ldae.runtime.device import pick_device
from ldae.runtime.randomness import Randomness, Stream, stream
from ldae.runtime.weights import save_weights
from ldae.study.record import Options, origin_of
from ldae.study.results import Manifest
from ldae.study.stage_specs import ClassifierStage
from ldae.training.loop import trained
from ldae.training.step import LossTask

SMALLEST_CROP = 0.35  # of the area
WARMUP, WEIGHT_DECAY, SMOOTHING = 0.2, 0.05, 0.1  # chosen at laptop scale by accuracy on validation images
BETAS = (0.9, 0.999)  # of AdamW


class ClassifierLoss(nn.Module):
    """The losses of a classifier."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy (N,) of images (N, 3, S, S) in [-1, 1] with labels (N,)."""
        return F.cross_entropy(self.network(images), labels, label_smoothing=SMOOTHING, reduction="none")


def train_classifier(stage: ClassifierStage, **options: Unpack[Options]) -> None:
    """Writes `weights.safetensors`, `history.csv` and `classifier.json` (its accuracy) into `out`."""
    device, dataset, seed, out = pick_device(), options["dataset"], options["seed"], options["out"]
    train, val = Split.open(dataset, "train", seed), Split.open(dataset, "val", seed)
    recipe, classes = stage.classifier, len(Manifest.read(dataset / "manifest.json").classes)
    origin = origin_of(stage.architecture, stage, options)

    def new() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(seed, Stream.INITIAL))
            return CLASSIFIERS[stage.architecture](classes, recipe.width).to(device)

    def prepare(inputs: Tensor, labels: Tensor, randomness: Randomness) -> tuple[Tensor, Tensor]:
        return random_resized_crop(to_float(inputs), randomness, SMALLEST_CROP, size=train.size), labels

    def start() -> LossTask:
        network = new()
        groups = [{"params": network.parameters(), "weight_decay": WEIGHT_DECAY}]
        loss = ClassifierLoss(network)
        return LossTask(loss, network, prepare, groups=groups, peak=recipe.rate, warmup=WARMUP, betas=BETAS)

    title = f"classifier {stage.architecture}"
    with trained(start, train.as_stored, recipe, options, origin, title=title, seed=seed, steps=recipe.steps) as result:
        if result is not None:
            network = new()
            network.load_state_dict(result.weights["network"])
            save_weights(out / "weights.safetensors", result.weights["network"])
            about = {
                "seed": seed,
                "architecture": stage.architecture,
                "width": recipe.width,
                "classes": classes,
                "accuracy": round(float(correct(network.eval(), val, device).mean()), 6),
            }
            result.write_record(out / "classifier.json", about | origin, "weights.safetensors")
