"""The patch-wise VAE: a token is a learned linear projection of a 16 x 16 patch, near N(0, 1) (paper, Sec. 4.2).

Its loss, |x - U V x|^2 with KL[V x | N], depends on the patches through mean and covariance alone. So the loss that is
minimised is the expectation itself, exact and without noise, instead of its value on batches of patches.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ldae.parts.tokenizers import pca
from ldae.parts.tokenizers.pca import LinearTokenizer
from ldae.study.scale import Fitting

ITERATIONS = 500  # of L-BFGS, at most


def expected_error(encode: Tensor, decode: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
    """E |x - U (V x + s eps)|^2 for centred x in the coordinates of its principal components.

    `encode` is V (d, D), `decode` U (D, d), `variance` (D,) that of the components, and `noise` s^2 (d,) the variance
    of the posterior. In these coordinates the covariance is diagonal, which saves nearly all of the arithmetic.
    """
    projected = encode * variance  # (d, D)
    gram = decode.T @ decode  # (d, d)
    cross = (projected * decode.T).sum()
    return variance.sum() - 2 * cross + (gram * (projected @ encode.T)).sum() + (gram.diagonal() * noise).sum()


def expected_kl(encode: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
    """E KL[N(V x, s^2) | N(0, 1)] for centred x, in nats; the arguments are those of `expected_error`."""
    spread = (encode.square() * variance).sum(1)
    return 0.5 * (spread + noise - 1 - noise.log()).sum()


def minimise(patches: Iterable[Tensor], *, dim: int, kl: float, seed: int) -> dict[str, Tensor]:
    """Minimises the expected loss on flattened patches (n, D), at least two, from a random start.

    The posterior's variance is one number for each dimension: for a linear VAE the best one does not depend on x. With
    a KL weight of 0 there is no posterior, and this is the AE.

    Returns `mean` (D,), `encode` V (d, D), `decode` U (D, d), and `variance` (d,) of the latents.
    """
    moments = pca.fit(patches)
    spectrum, basis = moments["variance"], moments["basis"]
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
        return {"mean": moments["mean"], "encode": encode @ basis, "decode": basis.T @ decode, "variance": variance}


def fit(patches: Iterable[Tensor], *, dim: int, fitting: Fitting, seed: int) -> dict[str, Tensor]:
    """The fit by `minimise` with the scale's KL weight."""
    return minimise(patches, dim=dim, kl=fitting.kl, seed=seed)


def build(fitted: dict[str, Tensor], *, dim: int, scale: str) -> LinearTokenizer:
    """The tokenizer of a fit, without the posterior's noise; a `ValueError` for a fit of another dimension."""
    if len(fitted["encode"]) != dim:
        raise ValueError(f"tokenizer.dim: {dim}, but the fit has {len(fitted['encode'])} dimensions")
    return LinearTokenizer(**fitted, scale=scale)
