"""Stage: pretrains an encoder with a method that the paper compares with, MAE or MoCo v3, by that method's recipe."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from torch import Tensor, nn

from ldae.data.augment import two_views
from ldae.data.crops import random_resized_crop
from ldae.data.prepared import Split, to_float
from ldae.parts.loading import build_baseline
from ldae.runtime.device import compile_blocks, device_name, pick_device, recompute_activations
from ldae.runtime.files import read_json, write_text
from ldae.runtime.randomness import Randomness
from ldae.runtime.weights import save_weights
from ldae.study.cost import baseline_macs
from ldae.study.methods import METHODS
from ldae.study.record import inputs_of, lineage, write_record
from ldae.study.stage_specs import BaselineStage
from ldae.training.loop import history_text, trained
from ldae.training.step import Descent, decayed

SMALLEST_CROP = 0.2  # of the area, of a single view (MAE)


def method_task(module: nn.Module, stage: BaselineStage, size: int) -> Descent:
    """The training of a method on images of side `size`.

    Args:
        module: of `ldae.parts.methods`: its forward pass gives the losses (n,) of the views and of what `draw` returns.
        stage: the method and its recipe.
        size: in pixels.
    """
    method, recipe = METHODS[stage.method], stage.recipe
    draw = getattr(module, "draw", None)

    def prepare(inputs: Tensor, labels: Tensor, randomness: Randomness) -> tuple[Tensor, ...]:
        images = to_float(inputs)
        if method.views == 2:
            views: tuple[Tensor, ...] = two_views(images, randomness, size=size)
        else:
            views = (random_resized_crop(images, randomness, SMALLEST_CROP, size=size),)
        return (*views, draw(len(images), randomness)) if draw is not None else views

    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    whole = [{"params": weights, "weight_decay": recipe.weight_decay}]
    return Descent(
        module,
        module,
        prepare,
        groups=whole if method.all_decay else decayed(module, recipe.weight_decay),
        peak=recipe.peak_rate,
        warmup=recipe.warmup,
        betas=method.betas,
        before=getattr(module, "before_step", None),
    )


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
    """
    device, manifest = pick_device(), read_json(dataset / "manifest.json")
    images = Split.open(dataset, "train")
    made_from = lineage("pretrain", stage, revision, manifest["lineage"])
    inputs = inputs_of(dataset=dataset)
    training = stage.recipe

    def start() -> Descent:
        module = build_baseline(stage, seed=seed, image_size=manifest["size"]).to(device)
        task = method_task(module, stage, images.size)
        layers = cast("list[nn.Module]", module.layers)
        if recompute:
            recompute_activations(layers)
        compile_blocks(layers, device)
        return task

    with trained(
        start,
        images.as_stored,
        title=row,
        seed=seed,
        total=training.total_steps(len(images)),
        batch=training.batch,
        log_every=training.log_every,
        made_from=[made_from, seed, inputs],
        resume=resume,
        checkpoint_seconds=checkpoint_seconds,
    ) as finished:
        if finished is None:
            return
        prefix, network = "encoder.", finished.weights["network"]
        encoder = {name.removeprefix(prefix): tensor for name, tensor in network.items() if name.startswith(prefix)}
        save_weights(out / "model.safetensors", encoder)
        write_text(out / "history.csv", history_text(finished.history))
        images_seen = finished.steps * training.batch
        about = {
            "row": row,
            "method": stage.method,
            "seed": seed,
            "parameters": sum(tensor.numel() for tensor in encoder.values()),
            "training_flops": 6 * images_seen * baseline_macs(stage, manifest["size"]),
        }
        write_record(
            out / "run.json",
            about,
            lineage=made_from,
            inputs=inputs,
            files=[out / "model.safetensors", out / "history.csv"],
            device=device_name(device),
            training_seconds=finished.seconds,
        )
