"""The kinds of tokenizers, in the order of the paper's Table 2, with what rows and stages ask of them; no torch.

`ldae.parts.tokenizers` has a module of the same name for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ldae.study.base import PATCH

PIXEL_PATCHES = {768: 16, 192: 8, 48: 4, 12: 2}  # dims of a pixel token -> its patch on the resized image (Fig. 5)


@dataclass(frozen=True)
class TokenizerKind:
    """What a kind of tokenizer can do."""

    title: str  # in tables
    trained: bool = False  # a network of its own, trained with losses; the latents of centre crops are cached
    linear: bool = True  # an affine map of each patch, which a patch embedding can include
    has_filters: bool = False  # whether its linear map can be shown as filters
    one_fit: bool = False  # whether one fit serves every `dim`
    on_images: bool = False  # whether its decoder is the inverse of its encoder, so that networks can work on images
    has_prior: bool = False  # whether a KL divergence pulls its latents to a standard normal distribution
    multiple: int = 1  # that `dim` must be of
    patches: Mapping[int, int] = field(default_factory=dict)  # each possible `dim` -> the patch on the resized image

    def dim_obstacle(self, dim: int) -> str | None:
        """Why a token cannot have this many dimensions; None if it can."""
        if self.patches and dim not in self.patches:
            return f"a token of {self.title} has one of {sorted(self.patches)}"
        return f"a token of {self.title} needs a multiple of {self.multiple}" if dim % self.multiple else None

    def patch(self, dim: int) -> int:
        """The side of a token's patch in pixels of the (resized) image."""
        return self.patches.get(dim, PATCH)

    def fitted_dim(self, dim: int) -> int | None:
        """The `dim` that the fit depends on; None for a fit of all dimensions."""
        return None if self.one_fit or self.patches else dim


TOKENIZERS = {
    # a token is 2 x 2 points of the latent map of C channels, so d = 4 C
    "conv": TokenizerKind("convolutional VAE", trained=True, linear=False, has_prior=True, multiple=4),
    "patch_vae": TokenizerKind("patch-wise VAE", has_filters=True, has_prior=True),
    "patch_ae": TokenizerKind("patch-wise AE", has_filters=True),
    "pca": TokenizerKind("patch-wise PCA", has_filters=True, one_fit=True, on_images=True),
    "pixel": TokenizerKind("pixels", patches=PIXEL_PATCHES),
}


def kinds_with(trait: str) -> list[str]:
    """The kinds that have a trait, e.g. `on_images`."""
    return [name for name, kind in TOKENIZERS.items() if getattr(kind, trait)]
