"""The patch-wise PCA tokenizer: a token is a 16 x 16 patch on the first d principal components (paper, Sec. 4.2)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldae.parts.moments import Moments
from ldae.parts.tokenizers.patches import patchify, safe_deviation, unpatchify
from ldae.study.base import PATCH


def fit(patches: Iterable[Tensor]) -> dict[str, Tensor]:
    """All principal components of a stream of patches.

    Args:
        patches: batches of flattened patches (n, D), of any float type.

    Returns:
        `mean` (D,), `basis` (D, D) with orthonormal rows by falling variance, each with its largest entry positive, and
        `variance` (D,), zero where the data have no extent.

    Raises:
        ValueError: for fewer than two patches.
    """
    moments = Moments.of(patches)
    variance, vectors = torch.linalg.eigh(moments.covariance)
    basis = vectors.T.flip(0)
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    return {"mean": moments.mean, "basis": basis * largest.sign(), "variance": variance.flip(0).clamp_min(0)}


class PCATokenizer(nn.Module):
    """Projects patches on `dim` components and scales them; `decode` is the inverse projection V^T."""

    basis: Tensor  # (d, D) orthonormal rows V_d
    spread: Tensor  # (d,) standard deviations of the components
    encode_weight: Tensor
    encode_bias: Tensor
    decode_weight: Tensor
    decode_bias: Tensor

    def __init__(self, fitted: dict[str, Tensor], *, dim: int, scale: str) -> None:
        super().__init__()
        self.dim = dim
        mean, basis, variance = fitted["mean"], fitted["basis"][:dim], fitted["variance"][:dim]
        spread = safe_deviation(variance)
        divisor = spread if scale == "dimension" else variance.mean().sqrt().expand(dim)
        # z = (x - mean) V^T / divisor and its inverse, each as one affine map
        tensors = {
            "basis": basis,
            "spread": spread,
            "encode_weight": basis / divisor[:, None],  # (d, D)
            "encode_bias": -(basis @ mean) / divisor,
            "decode_weight": (basis * divisor[:, None]).T,  # (D, d)
            "decode_bias": mean,
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.float().contiguous(), persistent=False)

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S) in [-1, 1] to latents (N, T, d)."""
        return self.encode_patches(patchify(images, PATCH))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, T, d) to images (N, 3, S, S): the projection V^T V x when nothing was added."""
        return unpatchify(self.decode_patches(latents), PATCH)

    def encode_patches(self, patches: Tensor) -> Tensor:
        """Flattened patches (N, T, D) to latents (N, T, d)."""
        return F.linear(patches, self.encode_weight, self.encode_bias)

    def decode_patches(self, latents: Tensor) -> Tensor:
        """Latents (N, T, d) to the flattened patches (N, T, D) of their image."""
        return F.linear(latents, self.decode_weight, self.decode_bias)


TOKENIZER = PCATokenizer
