"""Stage: trains a row's encoder end to end with labels, as a plain Vision Transformer (paper, App. B, after MAE)."""

from __future__ import annotations

from typing import Unpack, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldae.data.augment import mixed, rand_augment
from ldae.data.crops import random_resized_crop
from ldae.data.prepared import Split, to_float
from ldae.measures.classification import correct
from ldae.measures.intervals import grouped_mean
from ldae.parts.folding import Folded, fold
from ldae.parts.loading import open_baseline, open_denoiser
from ldae.runtime.arrays import save_arrays
from ldae.runtime.device import mixed_precision, pick_device
from ldae.runtime.randomness import Randomness, Stream, stream
from ldae.study.base import PATCH
from ldae.study.cost import classifier_vit_macs
from ldae.study.methods import METHODS
from ldae.study.recipes import Finetuning
from ldae.study.record import Options, origin_of
from ldae.study.results import Manifest, RunRecord
from ldae.study.stage_specs import FinetuneStage
from ldae.training.loop import trained
from ldae.training.step import LossTask

BETAS = (0.9, 0.999)  # MAE fine-tunes with AdamW's defaults
HEAD_DEVIATION = 2e-5  # of the classifier's initial weights (MAE)


class DropPath(nn.Module):
    """Leaves a residual branch out for some images; chosen by numbers that are drawn elsewhere, for whole batches."""

    def __init__(self, rate: float) -> None:
        """Leaves it out with probability `rate` in training."""
        super().__init__()
        self.rate = rate
        self.uniform: Tensor | None = None  # (N,) of the next forward pass

    def forward(self, branch: Tensor) -> Tensor:
        """A branch (N, T, h), zero for those left out, and larger for the others."""
        if not self.training or not self.rate or self.uniform is None:
            return branch
        return branch * ((self.uniform >= self.rate) / (1 - self.rate))[:, None, None].to(branch.dtype)


class FinetuningLoss(nn.Module):
    """The losses of a plain Vision Transformer with a classifier on the norm of its tokens' mean."""

    def __init__(self, network: nn.Module, recipe: Finetuning) -> None:
        """Gives a network of timm's a drop path on every branch, whose rate rises from 0 to the recipe's."""
        super().__init__()
        self.network, self.smoothing = network, recipe.smoothing
        blocks = list(cast(nn.Sequential, network.get_submodule("blocks")))
        self.paths: list[DropPath] = []
        for number, block in enumerate(blocks):
            for name in ("drop_path1", "drop_path2"):
                path = DropPath(recipe.drop_path * number / max(1, len(blocks) - 1))
                setattr(block, name, path)
                self.paths.append(path)

    def forward(self, images: Tensor, targets: Tensor, uniform: Tensor) -> Tensor:
        """The cross-entropy (N,) of images (N, 3, S, S) in [-1, 1] with shares of the classes (N, classes).

        The drop paths have numbers `uniform` in [0, 1) (N, 2 * depth).
        """
        for path, numbers in zip(self.paths, uniform.unbind(1), strict=True):
            path.uniform = numbers
        with mixed_precision(images.device):
            logits = self.network(images)
        return F.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=self.smoothing)


def vision_transformer(folded: Folded, *, classes: int, seed: int) -> nn.Module:
    """A classifier of timm's that starts from a folded encoder; `seed` is of the classifier's own weights."""
    from timm.models.vision_transformer import VisionTransformer  # which takes seconds to import

    network = VisionTransformer(
        img_size=PATCH * folded.grid,
        patch_size=PATCH,
        num_classes=classes,
        global_pool="avg",
        class_token=False,
        embed_dim=folded.width,
        depth=folded.depth,
        num_heads=folded.heads,
        act_layer=folded.activation,
        weight_init="skip",
    )
    head = torch.Generator().manual_seed(seed)
    fresh = {
        "fc_norm.weight": torch.ones(folded.width),
        "fc_norm.bias": torch.zeros(folded.width),
        "head.weight": HEAD_DEVIATION * torch.randn(classes, folded.width, generator=head),
        "head.bias": torch.zeros(classes),
    }
    network.load_state_dict(folded.state | fresh)
    return network


def finetuning_task(network: nn.Module, stage: FinetuneStage, *, classes: int, micro_batch: int = 0) -> LossTask:
    """The fine-tuning of a network of `vision_transformer`; `micro_batch` as in `LossTask`.

    As in MAE, after BEiT, each layer has `layer_decay` of the rate of the one above it, and biases, norms and the
    position table do not decay.
    """
    from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]

    recipe = stage.finetuning
    loss = FinetuningLoss(network, recipe)
    groups = param_groups_layer_decay(
        network, recipe.weight_decay, no_weight_decay_list={"pos_embed"}, layer_decay=stage.layer_decay
    )
    size = PATCH * round(network.get_parameter("pos_embed").shape[1] ** 0.5)  # of its images, in pixels

    def prepare(inputs: Tensor, labels: Tensor, randomness: Randomness) -> tuple[Tensor, Tensor, Tensor]:
        images = random_resized_crop(to_float(inputs), randomness, size=size)
        if recipe.magnitude:
            images = rand_augment(images, randomness, recipe.magnitude)
        images, targets = mixed(images, labels, randomness, classes=classes, recipe=recipe)
        return images, targets, randomness.uniform(len(images), len(loss.paths))

    return LossTask(
        loss,
        network,
        prepare,
        groups=groups,
        peak=recipe.peak_rate,
        warmup=recipe.warmup,
        betas=BETAS,
        ema=recipe.ema,
        micro_batch=micro_batch,
    )


def open_folded(stage: FinetuneStage, options: Options, manifest: Manifest) -> Folded:
    """The encoder of a finished run as a plain Vision Transformer.

    Raises:
        ValueError: for a denoiser without its tokenizer, or an encoder that no plain Vision Transformer equals.
    """
    model = options["model"]
    if METHODS[RunRecord.read(model / "run.json").method].denoises:
        network: nn.Module = open_denoiser(model, options.get("tokenizer"), manifest)
    else:
        network = open_baseline(model, manifest.size)
    try:
        return fold(network, time=stage.time, offset=stage.offset)
    except ValueError as error:
        raise ValueError(f"{model}: {error}") from None


def finetune(stage: FinetuneStage, **options: Unpack[Options]) -> None:
    """Fine-tunes a trained row, or goes on where its last attempt stopped; its averaged weights are evaluated.

    It writes `finetune.json`, `history.csv` and `correct.npz` (which validation images were classified correctly) into
    `out`.

    Raises:
        ValueError: for a loss that is not finite, and for a row that no plain Vision Transformer can stand for.
    """
    device, dataset, out = pick_device(), options["dataset"], options["out"]
    manifest, run = Manifest.read(dataset / "manifest.json"), RunRecord.read(options["model"] / "run.json")
    origin, recipe = origin_of("finetune", stage, options), stage.finetuning
    seed, classes = run.seed, len(manifest.classes)
    images, val = Split.open(dataset, "train", seed).as_stored, Split.open(dataset, "val", seed)
    folded, steps = open_folded(stage, options, manifest), recipe.total_steps(len(images))

    def fresh() -> nn.Module:
        return vision_transformer(folded, classes=classes, seed=stream(seed, Stream.CLASSIFIER)).to(device)

    def start() -> LossTask:
        return finetuning_task(fresh(), stage, classes=classes, micro_batch=options.get("micro_batch", 0))

    row, own_seed = options["row"], stream(seed, Stream.FINETUNING)  # another order and other crops than in pretraining
    with trained(start, images, recipe, options, origin, title=row, seed=own_seed, steps=steps) as result:
        if result is None:
            return
        network = fresh()
        network.load_state_dict(result.weights["average"])
        network.eval()
        with mixed_precision(device):
            right = correct(network, val, device)
        interval = grouped_mean(right.astype(np.float64), val.groups)
        macs = classifier_vit_macs(tokens=folded.grid**2, width=folded.width, blocks=folded.depth, classes=classes)
        save_arrays(out / "correct.npz", finetuned=right)
        about = {
            "row": row,
            "run": run.row,
            "seed": seed,
            "top1": interval.value,
            "top1_low": interval.low,
            "top1_high": interval.high,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "training_flops": 6 * steps * recipe.batch * macs,
        }
        result.write_record(out / "finetune.json", about | origin, "correct.npz", "history.csv")
