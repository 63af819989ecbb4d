"""Stage: trains a row's encoder end to end with labels, as a plain Vision Transformer (paper, App. B, after MAE)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldae.data.crops import random_resized_crop
from ldae.data.mixing import mixed
from ldae.data.prepared import Split, to_float
from ldae.data.rand_augment import rand_augment
from ldae.measures.classification import correct
from ldae.measures.intervals import grouped_mean
from ldae.parts.denoiser import mixed_precision
from ldae.parts.folding import Folded, fold
from ldae.parts.loading import open_baseline, open_denoiser
from ldae.runtime import ranks
from ldae.runtime.arrays import save_arrays
from ldae.runtime.files import checksums, read_json, write_json, write_text
from ldae.runtime.randomness import Randomness, stream
from ldae.study.base import PATCH
from ldae.study.cost import classifier_vit_macs
from ldae.study.record import inputs_of, lineage, provenance
from ldae.study.stage_specs import FinetuneStage
from ldae.training.loop import (
    Averaged,
    Run,
    device_name,
    gradient_norm,
    history_text,
    learning_rate,
    pick_device,
    trained,
)
from ldae.training.optimizer import AdamW

TUNING, HEAD = 10, 11  # streams of randomness
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


class Tuned(nn.Module):
    """A plain Vision Transformer with a classifier on the norm of its tokens' mean."""

    def __init__(self, network: nn.Module, drop_path: float) -> None:
        """Gives a network of timm's a drop path on every branch, whose rate rises from 0 to `drop_path`."""
        super().__init__()
        self.network = network
        blocks = list(cast(nn.Sequential, network.get_submodule("blocks")))
        self.paths: list[DropPath] = []
        for number, block in enumerate(blocks):
            for name in ("drop_path1", "drop_path2"):
                path = DropPath(drop_path * number / max(1, len(blocks) - 1))
                setattr(block, name, path)
                self.paths.append(path)

    def forward(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Images (N, 3, S, S) in [-1, 1] to logits (N, classes), with the drop paths' numbers (N, 2 * depth)."""
        for path, numbers in zip(self.paths, uniform.unbind(1), strict=True):
            path.uniform = numbers
        return self.network(images)


def vision_transformer(folded: Folded, *, classes: int, seed: int) -> nn.Module:
    """A classifier of timm's that starts from a folded encoder.

    Args:
        folded: the encoder.
        classes: of the data set.
        seed: of the classifier's weights.
    """
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


def layer_groups(network: nn.Module, *, layer_decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW, with `lr_scale`: the share of the rate that a layer has (MAE, after BEiT).

    It is `layer_decay` to the number of layers above: 1 for the classifier, `layer_decay` for the last block. Matrices
    decay; biases, norms and the position table do not.
    """
    depth = len(cast(nn.Sequential, network.get_submodule("blocks")))
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        layer = int(name.split(".")[1]) + 1 if name.startswith("blocks.") else depth + 1
        layer = 0 if name.startswith(("patch_embed.", "pos_embed")) else layer
        decays = parameter.ndim > 1 and name != "pos_embed"
        groups.setdefault((layer, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "lr_scale": layer_decay ** (depth + 1 - layer),
        }
        for (layer, decays), parameters in groups.items()
    ]


class Tuning:
    """A classifier that is trained end to end, its average and its optimizer."""

    def __init__(
        self, network: nn.Module, stage: FinetuneStage, *, classes: int, micro_batch: int | None = None
    ) -> None:
        """Prepares a network of `vision_transformer`.

        Args:
            network: the classifier.
            stage: what fine-tuning reads of the row and the scale.
            classes: of the data set.
            micro_batch: the most images of a forward pass; None for the whole batch.
        """
        self.recipe, self.classes = stage.finetuning, classes
        self.micro_batch = micro_batch or self.recipe.batch
        self.size = PATCH * round(network.get_parameter("pos_embed").shape[1] ** 0.5)  # of its images, in pixels
        self.tuned = Tuned(network, self.recipe.drop_path)
        self.parallel = ranks.parallel(self.tuned)
        self.network = network
        self.average = Averaged(network, self.recipe.ema)
        self.module = nn.ModuleDict({"network": network, "average": self.average.network})
        groups = layer_groups(network, layer_decay=stage.layer_decay, weight_decay=self.recipe.weight_decay)
        self.optimizer = AdamW(groups, betas=BETAS)
        self.optimizers = [self.optimizer]

    def update(
        self, inputs: Tensor, labels: Tensor, randomness: Randomness, *, step: int, total: int
    ) -> dict[str, Tensor | float]:
        """One step on this rank's part of a batch of uint8 images (N, 3, S', S') with labels (N,)."""
        part = len(inputs)
        images = random_resized_crop(to_float(inputs), randomness, size=self.size)
        if self.recipe.magnitude:
            images = rand_augment(images, randomness, self.recipe.magnitude)
        images, targets = mixed(images, labels, randomness, classes=self.classes, recipe=self.recipe)
        uniform = randomness.uniform(part, len(self.tuned.paths))
        rate = learning_rate(step, total=total, peak=self.recipe.peak_rate, warmup=self.recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        loss = torch.zeros((), device=images.device)
        for start in range(0, part, self.micro_batch):
            micro = slice(start, start + self.micro_batch)
            with ranks.apart(self.parallel, micro.stop < part):
                with mixed_precision(images.device):
                    logits = self.parallel(images[micro], uniform[micro])
                smoothing = self.recipe.smoothing
                losses = F.cross_entropy(logits.float(), targets[micro], reduction="none", label_smoothing=smoothing)
                share = losses.sum() / part
                share.backward()
            loss += share.detach()
        norm = gradient_norm(self.network)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(step)
        return {"loss": loss, "gradient_norm": norm, "rate": rate}


def open_folded(stage: FinetuneStage, model: Path, tokenizer: Path | None, manifest: dict[str, Any]) -> Folded:
    """The encoder of a finished run as a plain Vision Transformer; the arguments are those of `finetune`.

    Raises:
        ValueError: for a denoiser without its tokenizer, or an encoder that no plain Vision Transformer equals.
    """
    if read_json(model / "run.json")["method"] != "denoiser":
        network = open_baseline(model, manifest)
    elif tokenizer is None:
        raise ValueError(f"{model}: is a denoiser's; name the folder of its --tokenizer")
    else:
        network = open_denoiser(model, tokenizer, manifest)
    try:
        return fold(network, time=stage.time, offset=stage.offset)
    except ValueError as error:
        raise ValueError(f"{model}: {error}") from None


def finetune(
    stage: FinetuneStage,
    *,
    row: str,
    revision: int,
    dataset: Path,
    model: Path,
    resume: Path,
    out: Path,
    tokenizer: Path | None = None,
    micro_batch: int | None = None,
    checkpoint_seconds: float = 300.0,
    import_seconds: float = 0.0,
) -> None:
    """Fine-tunes a trained row, or goes on where its last attempt stopped; its averaged weights are evaluated.

    Args:
        stage: what fine-tuning reads of the row and the scale.
        row: its name.
        revision: of the code that fine-tunes.
        dataset, model: folders of earlier stages.
        resume: a folder for checkpoints that outlives failed attempts.
        out: gets `finetune.json`, `history.csv` and `correct.npz`: which validation images were classified rightly.
        tokenizer: the folder of the tokenizer's fit; None for a method that has none.
        micro_batch: images a forward pass, at most; None for the whole batch. It changes no number but by rounding.
        checkpoint_seconds: between two checkpoints, at least.
        import_seconds: from the start of the process until now.

    Raises:
        ValueError: when the loss is no longer a number, and for a row that no plain Vision Transformer can stand for.
    """
    device, manifest, run = pick_device(), read_json(dataset / "manifest.json"), read_json(model / "run.json")
    made = lineage("finetune", stage, revision, run["lineage"])
    seed, classes, recipe = run["seed"], len(manifest["classes"]), stage.finetuning
    inputs = inputs_of(dataset=dataset, tokenizer=tokenizer, model=model)
    identity = json.dumps([made, seed, inputs], sort_keys=True)
    train, val = Split.open(dataset, "train"), Split.open(dataset, "val")
    folded = open_folded(stage, model, tokenizer, manifest)
    steps = recipe.total_steps(len(train))

    def fresh() -> nn.Module:
        return vision_transformer(folded, classes=classes, seed=stream(seed, HEAD)).to(device)

    def start() -> Run:
        return Run(
            Tuning(fresh(), stage, classes=classes, micro_batch=micro_batch),
            title=row,
            seed=stream(seed, TUNING),  # not the order and the crops of pretraining once more
            total=steps,
            batch=recipe.batch,
            log_every=recipe.log_every,
            identity=identity,
        )

    with trained(
        start, train.as_stored, identity=identity, resume=resume, checkpoint_seconds=checkpoint_seconds
    ) as finished:
        if finished is None:
            return
        prefix, network = "average.", fresh()
        weights = finished["weights"]
        network.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        network.eval()
        with mixed_precision(device):
            right = correct(network, val, device)
        interval = grouped_mean(right.astype(np.float64), val.groups)
        macs = classifier_vit_macs(tokens=folded.grid**2, width=folded.width, blocks=folded.depth, classes=classes)
        write_text(out / "history.csv", history_text(finished["history"]))
        save_arrays(out / "correct.npz", finetuned=right)
        write_json(
            out / "finetune.json",
            {
                "row": row,
                "run": run["row"],
                "seed": seed,
                "lineage": made,
                "inputs": inputs,
                "sha256": checksums(out / "correct.npz", out / "history.csv"),
                "top1": interval.value,
                "top1_low": interval.low,
                "top1_high": interval.high,
                "parameters": sum(parameter.numel() for parameter in network.parameters()),
                "training_flops": 6 * steps * recipe.batch * macs,
                "provenance": provenance(device_name(device), import_seconds, training_seconds=finished["seconds"]),
            },
        )
