"""Tokenizers: images (N, 3, S, S) in [-1, 1] to latents (N, T, d) and back, standardised on data.

Each is a module with `fit(patches) -> tensors` and a class with `encode` and `decode`. The number of tokens T is the
same for all of them: one for every 16 x 16 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from torch import Tensor

from ldae import spec
from ldae.tokenizers import pca, pixel


class Tokenizer(Protocol):
    """What a row asks of its tokenizer; rows on images ask for all that a `PCATokenizer` has."""

    dim: int

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S) to latents (N, T, d)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, T, d) to images (N, 3, S, S)."""


FITS: dict[str, Callable[[Iterable[Tensor]], dict[str, Tensor]]] = {"pca": pca.fit, "pixel": pixel.fit}
TOKENIZERS: dict[str, Callable[..., Tokenizer]] = {"pca": pca.PCATokenizer, "pixel": pixel.PixelTokenizer}


def build(tokenizer: spec.Tokenizer, fitted: dict[str, Tensor]) -> Tokenizer:
    """The tokenizer of a row from its fitted tensors."""
    return TOKENIZERS[tokenizer.kind](fitted, dim=tokenizer.dim, scale=tokenizer.scale)
