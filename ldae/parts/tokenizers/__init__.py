"""Tokenizers: images (N, 3, S, S) in [-1, 1] to latents (N, T, d) and back, standardised on data.

Each is a module with a function that fits it and a class with `encode` and `decode`. The number of tokens T is the same
for all of them: one for every 16 x 16 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from torch import Tensor

from ldae.parts.tokenizers import conv, linear, pca, pixel
from ldae.study import spec
from ldae.study.stage_specs import TokenizerStage


class Tokenizer(Protocol):
    """What a row asks of its tokenizer; rows on images ask for all that a `PCATokenizer` has."""

    dim: int

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S) to latents (N, T, d)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, T, d) to images (N, 3, S, S)."""


def fit_vae(patches: Iterable[Tensor], stage: TokenizerStage) -> dict[str, Tensor]:
    """The patch-wise VAE, fitted to flattened patches (n, D), with the KL weight and the seed of a stage."""
    assert stage.dim is not None
    return linear.fit(patches, dim=stage.dim, kl=stage.fitting.kl, seed=stage.fitting.seed)


def fit_ae(patches: Iterable[Tensor], stage: TokenizerStage) -> dict[str, Tensor]:
    """The patch-wise AE, fitted to flattened patches (n, D): a VAE without the KL divergence."""
    assert stage.dim is not None
    return linear.fit(patches, dim=stage.dim, kl=0.0, seed=stage.fitting.seed)


FITS: dict[str, Callable[[Iterable[Tensor], TokenizerStage], dict[str, Tensor]]] = {
    "pca": lambda patches, _: pca.fit(patches),
    "pixel": lambda patches, _: pixel.fit(patches),
    "patch_vae": fit_vae,
    "patch_ae": fit_ae,
}
TOKENIZERS: dict[str, Callable[..., Tokenizer]] = {
    "pca": pca.PCATokenizer,
    "pixel": pixel.PixelTokenizer,
    "patch_vae": linear.LinearTokenizer,
    "patch_ae": linear.LinearTokenizer,
    "conv": conv.ConvTokenizer,
}


def build(tokenizer: spec.Tokenizer, fitted: dict[str, Tensor]) -> Tokenizer:
    """The tokenizer of a row from its fitted tensors; a `ValueError` says that they are of another dimension."""
    return TOKENIZERS[tokenizer.kind](fitted, dim=tokenizer.dim, scale=tokenizer.scale)
