"""The naive tokenizer: a token is a patch of the resized image, 16, 8, 4 or 2 pixels wide (paper, Sec. 4.2, Fig. 5)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F

from ldae.parts.moments import Moments
from ldae.parts.tokenizers.patches import patchify, standard_divisor, unpatchify
from ldae.study.base import PATCH
from ldae.study.tokenizers import PIXEL_PATCHES


def fit(patches: Iterable[Tensor]) -> dict[str, Tensor]:
    """The `mean` (d,) and `variance` (d,) of a stream of at least two patches (n, d), in float64."""
    moments = Moments.of(patches)
    return {"mean": moments.mean, "variance": moments.covariance.diagonal().clone()}


def resize(images: Tensor, patch: int) -> Tensor:
    """Images (N, 3, S, S), reduced by averaging until a patch of `patch` pixels covers 16 of the original's."""
    factor = PATCH // patch
    return F.avg_pool2d(images, factor) if factor > 1 else images


class PixelTokenizer(nn.Module):
    """Standardised pixels of the resized image."""

    mean: Tensor  # (d,)
    divisor: Tensor  # (d,)

    def __init__(self, fitted: dict[str, Tensor], *, dim: int, scale: str) -> None:
        super().__init__()
        self.patch = PIXEL_PATCHES[dim]
        self.register_buffer("mean", fitted["mean"].float(), persistent=False)
        self.register_buffer("divisor", standard_divisor(fitted["variance"], scale).float(), persistent=False)

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S) in [-1, 1] to latents (N, T, d)."""
        return (patchify(resize(images, self.patch), self.patch) - self.mean) / self.divisor

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, T, d) to the resized image, enlarged to full size."""
        small = unpatchify(latents * self.divisor + self.mean, self.patch)
        factor = PATCH // self.patch
        return F.interpolate(small, scale_factor=factor, mode="nearest") if factor > 1 else small


build = PixelTokenizer
