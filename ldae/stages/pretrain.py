"""Stage: pretrains a row, a denoiser or a method that the paper compares with, or takes its published weights.

Probes, samples and tables treat published weights like those of a training.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Unpack, cast

import torch
from torch import Tensor, nn

from ldae.data.augment import two_views
from ldae.data.crops import random_resized_crop
from ldae.data.prepared import Latents, Split, choose_mirrored, flip, to_float
from ldae.parts.denoiser import Denoiser
from ldae.parts.loading import build, build_baseline, published_weights
from ldae.parts.published import denoiser_weights, encoder_weights
from ldae.parts.tokenizers.conv import LATENT_PATCH
from ldae.runtime.device import compile_blocks, pick_device, recompute_activations
from ldae.runtime.randomness import Randomness
from ldae.runtime.weights import save_weights
from ldae.study.base import PATCH
from ldae.study.cost import baseline_macs, pretrain_macs
from ldae.study.methods import BASELINES
from ldae.study.record import Options, origin_of, write_record
from ldae.study.results import Manifest
from ldae.study.spec import PublishedWeights
from ldae.study.stage_specs import AdoptStage, BaselineStage, PretrainStage
from ldae.training.loop import BatchSource, by_part, trained
from ldae.training.step import LossTask, decay_groups

SMALLEST_CROP = 0.2  # of the area, of a random resized crop in pretraining (MAE)


def denoiser_task(denoiser: Denoiser, stage: PretrainStage, micro_batch: int = 0) -> LossTask:
    """The training of a row's denoiser; `micro_batch` is the most images of a forward pass, 0 for all."""
    training, recipe = stage.training, stage.recipe

    def prepare(inputs: Tensor, labels: Tensor, randomness: Randomness) -> tuple[Any, ...]:
        """Flips or crops a batch, and draws time steps, noise and which labels to drop.

        The inputs are uint8 images (N, 3, S, S), or cached latents of images and of their mirror images (N, 2, T, d).
        """
        if inputs.dtype != torch.uint8:
            batch = choose_mirrored(inputs, randomness)
        elif recipe.crop == "random":
            batch = random_resized_crop(to_float(inputs), randomness, SMALLEST_CROP, size=denoiser.grid * PATCH)
        else:
            batch = to_float(flip(inputs, randomness))
        return batch, labels, denoiser.draw(len(inputs), randomness)

    network, decay = denoiser.network, training.weight_decay
    return LossTask(
        denoiser,
        network,
        prepare,
        groups=decay_groups(network, decay) if decay else [{"params": network.parameters()}],
        peak=training.peak_rate,
        warmup=training.warmup / max(recipe.length, 1.0),  # longer trainings keep the number of steps (paper, App. A)
        ema=training.ema,
        micro_batch=micro_batch,
    )


def baseline_task(module: nn.Module, stage: BaselineStage, size: int) -> LossTask:
    """The training of a method on images of side `size`.

    The forward pass of `module`, one of `ldae.parts.methods`, gives the losses (n,) of the views and of what `draw`
    returns.
    """
    method, training = BASELINES[stage.method], stage.training
    draw = getattr(module, "draw", None)

    def prepare(inputs: Tensor, labels: Tensor, randomness: Randomness) -> tuple[Tensor, ...]:
        images = to_float(inputs)
        if method.views == 2:
            views: tuple[Tensor, ...] = two_views(images, randomness, size=size)
        else:
            views = (random_resized_crop(images, randomness, SMALLEST_CROP, size=size),)
        return (*views, draw(len(images), randomness)) if draw is not None else views

    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    whole = [{"params": weights, "weight_decay": training.weight_decay}]
    return LossTask(
        module,
        module,
        prepare,
        groups=whole if method.all_decay else decay_groups(module, training.weight_decay),
        peak=training.peak_rate,
        warmup=training.warmup,
        betas=method.betas,
        before=getattr(module, "before_step", None),
    )


def pretrain(stage: PretrainStage | AdoptStage | BaselineStage, **options: Unpack[Options]) -> None:
    """Trains a row, or goes on where its last attempt stopped, or takes its published weights.

    It writes `model.safetensors` and `run.json` into `out`, of a denoiser `ema.safetensors`, of a training
    `history.csv`.

    Raises:
        ValueError, OSError: in one line, for a loss that is not finite, and for published weights that are absent or
            not the expected ones.
    """
    if isinstance(stage, PretrainStage) or (isinstance(stage, BaselineStage) and stage.weights is None):
        train(stage, options)
    else:
        take_published(stage, options)


def train(stage: PretrainStage | BaselineStage, options: Options) -> None:
    """Trains a row's network; the arguments are those of `pretrain`."""
    dataset, tokenizer, seed, device = options["dataset"], options.get("tokenizer"), options["seed"], pick_device()
    manifest, images = Manifest.read(dataset / "manifest.json"), Split.open(dataset, "train", seed)
    origin, training = origin_of("pretrain", stage, options), stage.training
    source: BatchSource = images.as_stored  # random crops are cut from the larger stored images
    if isinstance(stage, PretrainStage):
        length, macs = stage.recipe.length, pretrain_macs(stage, images.size)
        if stage.recipe.crop == "center":
            cached = tokenizer if stage.tokenizer.traits.trained else None
            source = images if cached is None else Latents.open(cached, images.labels)
    else:
        length, macs = 1.0, baseline_macs(stage, images.size)

    def start() -> LossTask:
        if isinstance(stage, PretrainStage):
            denoiser = build(stage, seed=seed, tokenizer=tokenizer, manifest=manifest).to(device)
            task = denoiser_task(denoiser, stage, options.get("micro_batch", 0))
            layers: Iterable[nn.Module] = denoiser.network.layers
        else:
            module = build_baseline(stage, seed=seed, image_size=images.size).to(device)
            task = baseline_task(module, stage, images.size)
            layers = cast("list[nn.Module]", module.layers)
            if options.get("recompute"):
                recompute_activations(layers)
        compile_blocks(layers, device)
        return task

    steps = max(1, round(length * training.total_steps(len(images))))
    with trained(start, source, training, options, origin, title=options["row"], seed=seed, steps=steps) as result:
        if result is not None:  # on rank 0
            network = result.weights["network"]
            if isinstance(stage, PretrainStage):
                weights = {"model": network, "ema": result.weights["average"]}
            else:
                weights = {"model": by_part(network)["encoder"]}
            flops = 2 * 3 * steps * training.batch * macs  # 2 a multiply-add; backward costs twice the forward pass
            about = save(stage, weights, options, training_flops=flops)
            files = [*(f"{name}.safetensors" for name in weights), "history.csv"]
            result.write_record(options["out"] / "run.json", about | origin, *files)


def take_published(stage: AdoptStage | BaselineStage, options: Options) -> None:
    """Writes a row's published weights; the averaged ones of a DiT are the same."""
    grid = Manifest.read(options["dataset"] / "manifest.json").size // PATCH
    origin, file = origin_of("pretrain", stage, options), cast(PublishedWeights, stage.weights)
    if isinstance(stage, AdoptStage):
        convert = partial(denoiser_weights, about=file, dim=stage.tokenizer.dim, patch=LATENT_PATCH, grid=grid)
    else:
        convert = partial(encoder_weights, about=file, grid=grid)
    found = published_weights(file, convert)
    weights = {name: found for name in (("model", "ema") if isinstance(stage, AdoptStage) else ("model",))}
    about = save(stage, weights, options, training_flops=None)
    write_record(
        options["out"] / "run.json", about | origin, [options["out"] / f"{name}.safetensors" for name in weights]
    )


def save(
    stage: PretrainStage | AdoptStage | BaselineStage,
    weights: dict[str, dict[str, Tensor]],
    options: Options,
    *,
    training_flops: int | None,
) -> dict[str, Any]:
    """Writes `<name>.safetensors` for each of the weights and returns fields of the record.

    `training_flops` is None for published weights, whose cost is unknown.
    """
    for name, state in weights.items():
        save_weights(options["out"] / f"{name}.safetensors", state)
    return {
        "row": options["row"],
        "method": stage.method,
        "seed": options["seed"],
        # positions are fixed; only published encoders store them
        "parameters": sum(tensor.numel() for name, tensor in weights["model"].items() if name != "positions"),
        "training_flops": training_flops,
    }
