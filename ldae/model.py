"""A row's denoiser from the files that a stage is given: its tokenizer's fit, the data set, trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from ldae.dataset import stream
from ldae.denoiser import Denoiser
from ldae.files import read_json
from ldae.spec import PretrainStage

INITIAL = 0  # the stream of randomness that initial weights are drawn from


def build(stage: PretrainStage, *, seed: int, tokenizer: Path, manifest: dict[str, Any]) -> Denoiser:
    """An untrained denoiser; the same seed gives the same weights.

    Args:
        stage: what pretraining reads of the row and the scale.
        seed: of the run.
        tokenizer: the folder of the tokenizer's fit.
        manifest: of the data set.
    """
    fitted = load_file(tokenizer / "tokenizer.safetensors")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, INITIAL))
        return Denoiser(stage, fitted, image_size=manifest["size"], classes=len(manifest["classes"]))


class Trained(NamedTuple):
    """A finished run: its stage, its seed, its record and its weights."""

    stage: PretrainStage
    seed: int
    run: dict[str, Any]
    weights: dict[str, Tensor]


def open_run(folder: Path, weights: str = "model") -> Trained:
    """Reads a finished pretraining; `weights` is `model`, or `ema` for the averaged ones that sampling uses."""
    run = read_json(folder / "run.json")
    stage = PretrainStage.model_validate(run["lineage"]["pretrain"]["spec"])
    return Trained(stage, run["seed"], run, load_file(folder / f"{weights}.safetensors"))
