"""Small inputs of stages: images, a tokenizer, and networks with random weights, as earlier stages leave them."""

from __future__ import annotations

import atexit
import math
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from manifests import write_images, write_manifest
from rows import images
from torch import Tensor, nn

from ldae.parts.classifiers import CLASSIFIERS
from ldae.parts.loading import build, build_baseline
from ldae.parts.tokenizers.conv import Autoencoder
from ldae.runtime.arrays import save_row_checksums
from ldae.runtime.files import checksums, read_json, write_json
from ldae.runtime.weights import save_weights
from ldae.study.base import PATCH_DIM, Architecture, Size
from ldae.study.methods import MAETraining
from ldae.study.recipes import Training
from ldae.study.record import lineage
from ldae.study.results import Manifest
from ldae.study.scale import Classifier, Convolutional
from ldae.study.spec import Network, Noise, Objective, Recipe, Tokenizer
from ldae.study.stage_specs import BaselineStage, ClassifierStage, ConvolutionalStage, PretrainStage, TokenizerStage

CLASSES = 3
SIZE = Size(width=16, heads=2, encoder_blocks=2, decoder_blocks=1)
TRAINING: dict[str, Any] = {"steps": 4, "batch": 16, "rate": 0.3, "warmup": 0.4, "log_every": 1}
CLASSIFIER = Classifier(width=4, steps=3, batch=16, rate=0.002, log_every=1)
CONV = Convolutional(
    width=8, blocks=1, steps=3, batch=8, rate=1e-3, adversarial_start=0.3, discriminator_width=4, log_every=1
)
ROWS: dict[str, dict[str, Any]] = {  # a diffusion model, l-DAE, and a row on cached latents
    "dit": {
        "tokenizer": Tokenizer(dim=16),
        "noise": Noise(schedule="ddpm"),
        "network": Network(labels=True),
    },
    "ldae": {
        "tokenizer": Tokenizer(dim=32),
        "network": Network(input="image", output="image"),
        "objective": Objective(predict="clean", weight="signal", tail=0.1),
        "recipe": Recipe(crop="random"),
    },
    "conv": {"tokenizer": Tokenizer(kind="conv", dim=16, scale="dimension")},
}
SAMPLE_VARIANCES = {"dit": 1e-4, "ldae": 9.0}  # variances at which few of the samples' pixels are black or white


@cache
def folder() -> Path:
    """A folder that is deleted with the process."""
    path = Path(mkdtemp())
    atexit.register(shutil.rmtree, path)
    return path


@cache
def dataset() -> Path:
    """Prepared images of 32 pixels, kept at 40."""
    out = folder() / "dataset"
    nums = {"train": 96, "val": 60}
    pictures = [images(num + 7, 40)[7 * (split == "val") :][:num].numpy() for split, num in nums.items()]
    labels = np.concatenate([np.arange(num) % 7 % CLASSES for num in nums.values()])
    numbers = {"train": nums["train"], "labels": labels, "groups": np.arange(len(labels)) // 4}
    write_manifest(out, sha256=write_images(out, np.concatenate(pictures), **numbers))
    return out


@cache
def cosines(variance: float = 9.0) -> Path:
    """A tokenizer's folder like PCA's; the components are those of the cosine transform, the first has a `variance`."""
    out, places = folder() / f"cosines-{variance}", torch.arange(PATCH_DIM, dtype=torch.float64)
    basis = torch.cos(math.pi / PATCH_DIM * (places + 0.5) * places[:, None]) * math.sqrt(2 / PATCH_DIM)
    basis[0] /= math.sqrt(2)
    fitted = {
        "mean": torch.full((PATCH_DIM,), 0.1, dtype=torch.float64),
        "basis": basis,
        "variance": variance / (1 + places),
    }
    save_weights(out / "tokenizer.safetensors", fitted)
    made = lineage("tokenizer", TokenizerStage(), 1, read_json(dataset() / "manifest.json")["lineage"])
    write_json(
        out / "tokenizer.json",
        {
            "seed": 0,
            "lineage": made,
            "kind": "pca",
            "dims": PATCH_DIM,
            "sha256": checksums(out / "tokenizer.safetensors"),
        },
    )
    return out


@cache
def convolutions() -> Path:
    """The folder of a convolutional tokenizer with random weights and random latents."""
    out, generator = folder() / "convolutions", torch.Generator().manual_seed(0)
    state = random_state(Autoencoder(width=CONV.width, blocks=CONV.blocks, channels=4))
    fitted = {"mean": torch.full((16,), 0.1), "variance": torch.linspace(0.5, 2.0, 16)}
    save_weights(
        out / "tokenizer.safetensors", fitted | {f"autoencoder.{name}": tensor for name, tensor in state.items()}
    )
    np.save(out / "latents.npy", torch.randn(96, 2, 4, 16, generator=generator).half().numpy())
    save_row_checksums(out / "latents.npy")
    stage = ConvolutionalStage(dim=16, convolutional=CONV)
    made = lineage("tokenizer", stage, 1, read_json(dataset() / "manifest.json")["lineage"])
    about = {"seed": 0, "lineage": made, "kind": "conv", "dims": 16, "sha256": checksums(out / "tokenizer.safetensors")}
    write_json(out / "tokenizer.json", about)
    return out


def tokenizer(row: str) -> Path:
    """The folder of the tokenizer of one of `ROWS`."""
    return convolutions() if row == "conv" else cosines()


def random_state(module: nn.Module) -> dict[str, Tensor]:
    """Weights of a usual size for a module, whatever it starts with: no gate is closed, no bias zero."""
    generator, state = torch.Generator().manual_seed(0), {}
    for name, tensor in sorted(module.state_dict().items()):
        if not tensor.is_floating_point():
            state[name] = tensor
            continue
        drawn = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            state[name] = 0.1 + 0.1 * drawn.abs()
        elif tensor.ndim < 2:
            state[name] = 0.1 * drawn + (1 if name.endswith("weight") else 0)
        else:
            state[name] = drawn / math.sqrt(tensor[0].numel())
    return state


@cache
def denoiser(row: str) -> Path:
    """A finished run of one of `ROWS`, with random weights."""
    out, manifest = folder() / "runs" / row, Manifest.read(dataset() / "manifest.json")
    stage = PretrainStage(size=SIZE, training=Training(**TRAINING), **ROWS[row])
    state = random_state(build(stage, seed=0, tokenizer=tokenizer(row), manifest=manifest).network)
    made = lineage("pretrain", stage, 1, read_json(tokenizer(row) / "tokenizer.json")["lineage"])
    return finished_run(out, row, "denoiser", made, {"model": state, "ema": state})


@cache
def encoder() -> Path:
    """A finished run of MAE, with random weights."""
    recipe = MAETraining(**TRAINING, decoder_width=16, decoder_heads=2, decoder_blocks=1)
    stage = BaselineStage(size=SIZE, mae=recipe)
    state = random_state(build_baseline(stage, seed=0, image_size=32).get_submodule("encoder"))
    made = lineage("pretrain", stage, 1, read_json(dataset() / "manifest.json")["lineage"])
    return finished_run(folder() / "runs/mae", "mae", "mae", made, {"model": state})


def finished_run(out: Path, row: str, method: str, made: Any, weights: dict[str, dict[str, Tensor]]) -> Path:
    """Writes a run's weights and record into the folder `out`."""
    for name, state in weights.items():
        save_weights(out / f"{name}.safetensors", state)
    about = {"row": row, "method": method, "seed": 0, "parameters": 0, "lineage": made, "training_flops": 0}
    write_json(out / "run.json", about | {"sha256": checksums(*(out / f"{name}.safetensors" for name in weights))})
    return out


@cache
def classifier(architecture: Architecture) -> Path:
    """A small classifier with random weights."""
    out = folder() / "classifiers" / architecture
    save_weights(out / "weights.safetensors", random_state(CLASSIFIERS[architecture](CLASSES, CLASSIFIER.width)))
    stage = ClassifierStage(architecture=architecture, classifier=CLASSIFIER)
    made = lineage(architecture, stage, 1, read_json(dataset() / "manifest.json")["lineage"])
    about = {"seed": 0, "architecture": architecture, "width": CLASSIFIER.width, "classes": CLASSES, "accuracy": 0.5}
    write_json(out / "classifier.json", about | {"lineage": made, "sha256": checksums(out / "weights.safetensors")})
    return out


@cache
def samples() -> Path:
    """Samples of a row, as `sample` leaves them: mirrored pictures with too much contrast."""
    out = folder() / "samples"
    out.mkdir()
    pictures = images(120).flip(-1).float().sub(128).mul(1.2).add(120).clamp(0, 255).byte()
    np.save(out / "samples.npy", pictures.numpy())
    made = read_json(denoiser("dit") / "run.json")["lineage"] | {"sample": {"revision": 1, "spec": {}}}
    write_json(
        out / "samples.json", {"row": "dit", "seed": 0, "lineage": made, "sha256": checksums(out / "samples.npy")}
    )
    return out
