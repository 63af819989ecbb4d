"""The study's rows at a size that a test can afford."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ldae.data.prepared import to_float
from ldae.parts import tokenizers
from ldae.parts.denoiser import Denoiser
from ldae.parts.tokenizers import pca, pixel
from ldae.parts.tokenizers.conv import Autoencoder, ConvTokenizer
from ldae.parts.tokenizers.patches import patchify
from ldae.stages.pretrain import denoiser_task
from ldae.study.base import Size
from ldae.study.recipes import Training
from ldae.study.scale import Fitting
from ldae.study.spec import Method, Recipe, Tokenizer
from ldae.study.stage_specs import PretrainStage, TokenizerStage
from ldae.study.study import Study
from ldae.training.loop import TrainingRun

ROOT = Path(__file__).parents[2]
STUDY = Study.load(ROOT, {"scale": "smoke"})
VARIANTS = {
    row: STUDY.variants[row]
    for row in dict.fromkeys(STUDY.runs.values())
    if STUDY.is_denoiser(row) and not STUDY.is_published(row)
}
SIZE = Size(width=32, heads=2, encoder_blocks=1, decoder_blocks=1)
TRAINING = Training(steps=60, batch=8, rate=0.1, warmup=0.1)


def images(num: int = 8, side: int = 32) -> Tensor:
    """Waves with a little noise (num, 3, side, side), uint8; the same on every machine."""
    grid = torch.arange(side, dtype=torch.float64)
    phase = torch.arange(num * 3, dtype=torch.float64).view(num, 3, 1, 1)
    waves = torch.sin(grid * (1 + phase % 5) / 5 + phase)[:, :, :, :] + torch.cos(grid[:, None] * (2 + phase % 3) / 7)
    ripple = torch.frac(torch.sin(torch.arange(num * 3 * side**2, dtype=torch.float64) * 12.9898) * 43758.5453)
    return (127.5 + 50 * waves + 20 * ripple.view(num, 3, side, side)).clamp(0, 255).round().byte()


def fit(tokenizer: Tokenizer) -> dict[str, Tensor]:
    """A row's tokenizer on a few waves; a convolutional one keeps its random weights."""
    data = to_float(images(240))
    if tokenizer.traits.trained:
        torch.manual_seed(0)
        autoencoder: nn.Module = Autoencoder(width=8, blocks=1, channels=tokenizer.dim // 4)
        fitted = {f"autoencoder.{name}": tensor for name, tensor in autoencoder.state_dict().items()}
        blank = {"mean": torch.zeros(tokenizer.dim), "variance": torch.ones(tokenizer.dim)}
        raw = ConvTokenizer(fitted | blank, dim=tokenizer.dim, scale="global").raw(data[:64])
        return fitted | pixel.fit([raw.flatten(0, 1)])
    patch, dim = tokenizer.traits.patch(tokenizer.dim), tokenizer.traits.fitted_dim(tokenizer.dim)
    patches = [patchify(pixel.resize(data, patch), patch).flatten(0, 1)]
    if dim is not None:  # PCA is an optimum of the second, and in a moment
        fitted = pca.fit(patches)
        basis, variance = fitted["basis"][: tokenizer.dim], fitted["variance"][: tokenizer.dim]
        return {"mean": fitted["mean"], "encode": basis, "decode": basis.T, "variance": variance}
    return tokenizers.fit(patches, TokenizerStage(kind=tokenizer.kind, patch=patch, fitting=Fitting()), seed=0)


FITTED: dict[str, dict[str, Tensor]] = {}  # by the tokenizer's name, fitted once a process


def denoiser(row: str) -> tuple[PretrainStage, Denoiser]:
    """An untrained denoiser of a row and what it was made from; seed 0."""
    spec = VARIANTS[row].spec
    assert spec.method == Method()
    parts = spec.model_dump(exclude={"features", "method", "recipe"})
    recipe = Recipe(crop=spec.recipe.crop, length=spec.recipe.length)
    stage = PretrainStage(**parts, recipe=recipe, size=SIZE, training=spec.recipe.applied(TRAINING))
    if spec.tokenizer.name not in FITTED:
        FITTED[spec.tokenizer.name] = fit(spec.tokenizer)
    torch.manual_seed(0)
    return stage, Denoiser(stage, FITTED[spec.tokenizer.name], image_size=32, classes=3)


def run(row: str) -> TrainingRun:
    """A training run of a row at its first step."""
    stage, model = denoiser(row)
    return TrainingRun(
        denoiser_task(model, stage), title=row, seed=0, total=60, batch=8, log_every=TRAINING.log_every, identity=""
    )
