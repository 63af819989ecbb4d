"""The study's rows at a size that a test can afford."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ldae import tokenizers
from ldae.dataset import to_float
from ldae.denoiser import Denoiser
from ldae.pretrain import Run
from ldae.spec import PATCH, PretrainStage, Size, Training
from ldae.tokenizers import pca, pixel
from ldae.tokenizers.patches import patchify
from ldae.variants import Study

ROOT = Path(__file__).parent.parent
VARIANTS = Study.load(ROOT, {"scale": "smoke"}).variants
SIZE = Size(width=32, heads=2, encoder_blocks=1, decoder_blocks=1)
TRAINING = Training(steps=60, batch=8, rate=0.1, warmup=0.1)


def images(num: int = 8) -> Tensor:
    """Waves with a little noise (num, 3, 32, 32), uint8; the same on every machine."""
    grid = torch.arange(32.0, dtype=torch.float64)
    phase = torch.arange(num * 3, dtype=torch.float64).view(num, 3, 1, 1)
    waves = torch.sin(grid * (1 + phase % 5) / 5 + phase)[:, :, :, :] + torch.cos(grid[:, None] * (2 + phase % 3) / 7)
    ripple = torch.frac(torch.sin(torch.arange(num * 3072, dtype=torch.float64) * 12.9898) * 43758.5453)
    return (127.5 + 50 * waves + 20 * ripple.view(num, 3, 32, 32)).clamp(0, 255).round().byte()


def denoiser(row: str) -> tuple[PretrainStage, Denoiser]:
    """An untrained denoiser of a row and what it was made from; seed 0."""
    spec = VARIANTS[row].spec
    stage = PretrainStage(**spec.model_dump(exclude={"features"}), size=SIZE, training=TRAINING)
    data = to_float(images(240))
    patch = PATCH if spec.tokenizer.kind == "pca" else tokenizers.pixel.PIXEL_PATCHES[spec.tokenizer.dim]
    fit = pca.fit if spec.tokenizer.kind == "pca" else pixel.fit
    fitted = fit([patchify(pixel.resize(data, patch), patch).flatten(0, 1)])
    torch.manual_seed(0)
    return stage, Denoiser(stage, fitted, image_size=32, classes=3)


def run(row: str) -> Run:
    """A training run of a row at its first step."""
    stage, model = denoiser(row)
    return Run(model, stage, seed=0, total=60, identity="")
