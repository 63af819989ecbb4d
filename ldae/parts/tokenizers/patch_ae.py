"""The patch-wise AE: a linear autoencoder, the VAE without the KL divergence (paper, Sec. 4.2)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ldae.parts.tokenizers import linear
from ldae.study.scale import Fitting


def fit(patches: Iterable[Tensor], *, dim: int, fitting: Fitting) -> dict[str, Tensor]:
    """Fits it to flattened patches (n, D); the result is that of `linear.fit`."""
    return linear.fit(patches, dim=dim, kl=0.0, seed=fitting.seed)


TOKENIZER = linear.LinearTokenizer
