"""The patch-wise VAE and AE: a token is a learned linear projection of a 16 x 16 patch (paper, Sec. 4.2).

Their losses, |x - U V x|^2 with or without KL[V x | N], depend on the patches through mean and covariance alone. So the
loss that is minimised is the expectation itself, exact and without noise, instead of its value on batches of patches.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldae.parts.tokenizers import pca
from ldae.parts.tokenizers.patches import patchify, safe_deviation, unpatchify
from ldae.study.base import PATCH

ITERATIONS = 500  # of L-BFGS, at most


def expected_error(encode: Tensor, decode: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
    """E |x - U (V x + s eps)|^2 for centred x in the coordinates of its principal components.

    There the covariance is diagonal, which saves nearly all of the arithmetic.

    Args:
        encode: V (d, D).
        decode: U (D, d).
        variance: of the components (D,).
        noise: s^2 (d,), the variance of the posterior; zero for the AE.
    """
    projected = encode * variance  # (d, D)
    gram = decode.T @ decode  # (d, d)
    cross = (projected * decode.T).sum()
    return variance.sum() - 2 * cross + (gram * (projected @ encode.T)).sum() + (gram.diagonal() * noise).sum()


def expected_kl(encode: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
    """E KL[N(V x, s^2) | N(0, 1)] for centred x, in nats; the arguments are those of `expected_error`."""
    spread = (encode.square() * variance).sum(1)
    return 0.5 * (spread + noise - 1 - noise.log()).sum()


def fit(patches: Iterable[Tensor], *, dim: int, kl: float, seed: int) -> dict[str, Tensor]:
    """Minimises the expected loss of a patch-wise autoencoder from a random start.

    The posterior's variance is one number for each dimension: for a linear VAE the best one does not depend on x.

    Args:
        patches: batches of flattened patches (n, D), of any float type.
        dim: d, of a token.
        kl: weight of the KL divergence; 0 for the AE, which has no posterior either.
        seed: of the start.

    Returns:
        `mean` (D,), `encode` V (d, D), `decode` U (D, d), and `variance` (d,) of the latents.

    Raises:
        ValueError: for fewer than two patches.
    """
    moments = pca.fit(patches)
    spectrum = moments["variance"]
    generator = torch.Generator().manual_seed(seed)
    full = len(spectrum)
    bound = (6 / (dim + full)) ** 0.5  # Xavier
    encode, decode = (
        torch.empty(shape, dtype=torch.float64).uniform_(-bound, bound, generator=generator).requires_grad_()
        for shape in ((dim, full), (full, dim))
    )
    log_noise = torch.zeros(dim, dtype=torch.float64, requires_grad=kl > 0)
    weights = [encode, decode, log_noise] if kl else [encode, decode]
    optimizer = torch.optim.LBFGS(
        weights, max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe", tolerance_change=1e-12
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        noise = log_noise.exp() if kl else torch.zeros_like(log_noise)
        value = expected_error(encode, decode, spectrum, noise)
        if kl:
            value = value + kl * expected_kl(encode, spectrum, noise)
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        variance = (encode.square() * spectrum).sum(1)
        basis = moments["basis"]
        return {
            "mean": moments["mean"],
            "encode": encode @ basis,
            "decode": basis.T @ decode,
            "variance": variance,
        }


class LinearTokenizer(nn.Module):
    """Projects patches on the learned directions, without the posterior's noise, and scales them."""

    encode_weight: Tensor
    encode_bias: Tensor
    decode_weight: Tensor
    decode_bias: Tensor

    def __init__(self, fitted: dict[str, Tensor], *, dim: int, scale: str) -> None:
        """Folds the standardisation into both maps.

        Raises:
            ValueError: for a fit of another dimension.
        """
        super().__init__()
        self.dim = dim
        mean, encode, decode, variance = (fitted[name] for name in ("mean", "encode", "decode", "variance"))
        if len(encode) != dim:
            raise ValueError(f"tokenizer.dim: {dim}, but the fit has {len(encode)} dimensions")
        divisor = safe_deviation(variance) if scale == "dimension" else variance.mean().sqrt().expand(dim)
        tensors = {
            "encode_weight": encode / divisor[:, None],  # (d, D)
            "encode_bias": -(encode @ mean) / divisor,
            "decode_weight": decode * divisor,  # (D, d)
            "decode_bias": mean,
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.float().contiguous(), persistent=False)

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S) in [-1, 1] to latents (N, T, d)."""
        return F.linear(patchify(images, PATCH), self.encode_weight, self.encode_bias)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, T, d) to images (N, 3, S, S)."""
        return unpatchify(F.linear(latents, self.decode_weight, self.decode_bias), PATCH)
