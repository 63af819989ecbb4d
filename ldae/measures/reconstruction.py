"""How faithfully a tokenizer gives images back, and which of its dimensions carry nothing."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ldae.data.prepared import Split, to_float
from ldae.parts.tokenizers import Tokenizer

IMAGES = 1000  # validation images, at most, that the error is averaged over
PEAK = 2.0  # images are in [-1, 1]
BATCH = 100


def psnr(tokenizer: Tokenizer, val: Split, device: torch.device) -> float:
    """The peak signal-to-noise ratio in dB of `decode(encode(x))`, from the mean squared error over images."""
    chosen = np.linspace(0, len(val) - 1, min(IMAGES, len(val))).astype(np.int64)
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(chosen), BATCH):
            images = to_float(val.batch(chosen[start : start + BATCH], device)[0])
            total += (tokenizer.decode(tokenizer.encode(images)) - images).square().flatten(1).mean(1).sum().item()
    return 10 * math.log10(PEAK**2 / max(total / len(chosen), 1e-12))


def collapsed(variance: Tensor, *, has_prior: bool) -> int:
    """How many dimensions carry nothing.

    Args:
        variance: of each dimension of the latents (d,), over data.
        has_prior: whether a KL divergence pulls them to N(0, 1). A dimension then counts as unused when its posterior
            mean varies by less than 0.01 (the "active units" of Burda et al., 2016); else when it has no extent.
    """
    floor = 0.01 if has_prior else 1e-8 * variance.max()
    return int((variance <= floor).sum())
