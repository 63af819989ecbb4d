"""Our Fréchet distance, from the eigenvalues of a symmetric matrix, against the usual matrix square root of SciPy.

The features are as many as Inception's, with a spectrum as steep.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from benchmarks.comparison import in_turn, save
from ldae.measures.frechet import Reference
from ldae.parts.moments import Moments

SAMPLES, DIM = 10_000, 2048


def moments(generator: torch.Generator, mixing: Tensor) -> Moments:
    """Those of correlated normal features."""
    result = Moments()
    for _ in range(SAMPLES // 1000):
        result.update(torch.randn(1000, DIM, generator=generator) @ mixing)
    return result


def main() -> None:
    """Measures both in turn, and how far the distances are apart."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    mixing = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))[0] * torch.arange(1, DIM + 1).rsqrt()
    rotation = torch.linalg.qr(torch.eye(DIM) + 0.01 * torch.randn(DIM, DIM, generator=generator))[0]
    first, second = moments(generator, mixing), moments(generator, mixing @ rotation)
    mean1, covariance1, mean2, covariance2 = first.mean, first.covariance, second.mean, second.covariance

    reference = Reference(mean2, covariance2)  # a judge measures 31 distances to one reference

    def ours() -> float:
        return reference.distance(mean1, covariance1)

    def theirs() -> float:
        root = sqrtm((covariance1 @ covariance2).numpy())
        spread = covariance1.trace() + covariance2.trace() - 2 * float(np.trace(root).real)
        return float((mean1 - mean2).square().sum() + spread)

    report = in_turn(ours, theirs, 3)
    value, expected = ours(), theirs()
    report |= {"distance": value, "relative_difference": abs(value - expected) / expected}
    save(
        "frechet",
        {"what": f"Fréchet distance of {DIM} features to a prepared reference, ours against scipy.linalg.sqrtm"}
        | report,
    )


if __name__ == "__main__":
    main()
