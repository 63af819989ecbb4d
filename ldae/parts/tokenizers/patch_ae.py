"""The patch-wise AE: the patch-wise VAE without the KL divergence (paper, Sec. 4.2)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ldae.parts.tokenizers import patch_vae
from ldae.study.scale import Fitting

build = patch_vae.build


def fit(patches: Iterable[Tensor], *, dim: int, fitting: Fitting, seed: int) -> dict[str, Tensor]:
    """The fit of `patch_vae.minimise` to flattened patches (n, D)."""
    return patch_vae.minimise(patches, dim=dim, kl=0.0, seed=seed)
