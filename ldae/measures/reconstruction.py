"""The reconstruction error of a tokenizer, and its unused dimensions."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ldae.data.prepared import Split, to_float
from ldae.parts.tokenizers import TokenizerModule

IMAGES = 1000  # at most so many validation images
BATCH = 100


def psnr(tokenizer: TokenizerModule, val: Split, device: torch.device) -> float:
    """The peak signal-to-noise ratio of `decode(encode(x))` in dB, from the mean squared error over images."""
    numbers = np.linspace(0, len(val) - 1, min(IMAGES, len(val))).astype(np.int64)
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(numbers), BATCH):
            images = to_float(val.batch(numbers[start : start + BATCH], device)[0])
            total += (tokenizer.decode(tokenizer.encode(images)) - images).square().flatten(1).mean(1).sum().item()
    peak = 2.0  # images are in [-1, 1]
    return 10 * math.log10(peak**2 / max(total / len(numbers), 1e-12))


def collapsed(variance: Tensor, *, has_prior: bool) -> int:
    """The number of latent dimensions without information, from the variance (d,) of each over images.

    With a prior, where a KL divergence pulls the latents to N(0, 1), a dimension is unused if the variance of its
    posterior mean is at most 0.01 ("active units", Burda et al., 2016); otherwise if it has no variance.
    """
    floor = 0.01 if has_prior else 1e-8 * variance.max()
    return int((variance <= floor).sum())
