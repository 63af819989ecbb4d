"""The patch-wise PCA tokenizer: a token is a 16 x 16 patch on the first d principal components (paper, Sec. 4.2)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldae.parts.moments import Moments
from ldae.parts.tokenizers.patches import patchify, safe_deviation, standard_divisor, unpatchify
from ldae.study.base import PATCH


def fit(patches: Iterable[Tensor]) -> dict[str, Tensor]:
    """All principal components of a stream of flattened patches (n, D), of any float type.

    Returns `mean` (D,), `basis` (D, D) with orthonormal rows by falling variance, each with its largest entry positive,
    and `variance` (D,), zero where the data have no extent. Fewer than two patches are a `ValueError`.
    """
    moments = Moments.of(patches)
    variance, vectors = torch.linalg.eigh(moments.covariance)
    basis = vectors.T.flip(0)
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    return {"mean": moments.mean, "basis": basis * largest.sign(), "variance": variance.flip(0).clamp_min(0)}


class LinearTokenizer(nn.Module):
    """Projects patches x on d directions V and scales them: z = V (x - mean) / divisor; decodes by U (V^T for PCA)."""

    basis: Tensor  # (d, D) V
    spread: Tensor  # (d,) standard deviations of V (x - mean)
    encode_weight: Tensor
    encode_bias: Tensor
    decode_weight: Tensor
    decode_bias: Tensor

    def __init__(self, *, mean: Tensor, encode: Tensor, decode: Tensor, variance: Tensor, scale: str) -> None:
        """Takes the mean (D,), V (d, D), U (D, d), and the variance (d,) of V (x - mean) on data."""
        super().__init__()
        divisor = standard_divisor(variance, scale)
        tensors = {
            "basis": encode,
            "spread": safe_deviation(variance),
            "encode_weight": encode / divisor[:, None],  # (d, D)
            "encode_bias": -(encode @ mean) / divisor,
            "decode_weight": decode * divisor,  # (D, d)
            "decode_bias": mean,
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.float().contiguous(), persistent=False)

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S) in [-1, 1] to latents (N, T, d)."""
        return self.encode_patches(patchify(images, PATCH))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, T, d) to images (N, 3, S, S)."""
        return unpatchify(self.decode_patches(latents), PATCH)

    def encode_patches(self, patches: Tensor) -> Tensor:
        """Flattened patches (N, T, D) to latents (N, T, d)."""
        return F.linear(patches, self.encode_weight, self.encode_bias)

    def decode_patches(self, latents: Tensor) -> Tensor:
        """Latents (N, T, d) to the flattened patches (N, T, D) of their image."""
        return F.linear(latents, self.decode_weight, self.decode_bias)


def build(fitted: dict[str, Tensor], *, dim: int, scale: str) -> LinearTokenizer:
    """The tokenizer of the first `dim` components; it decodes by the inverse projection V^T."""
    basis, variance = fitted["basis"][:dim], fitted["variance"][:dim]
    return LinearTokenizer(mean=fitted["mean"], encode=basis, decode=basis.T, variance=variance, scale=scale)
