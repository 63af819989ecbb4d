"""Images as sequences of flattened patches."""

from __future__ import annotations

import torch
from torch import Tensor


def patchify(images: Tensor, patch: int) -> Tensor:
    """Images (N, C, H, W) to flattened patches (N, T, C * patch^2), row by row, each in the order channel, y, x."""
    n, c, h, w = images.shape
    grid = images.reshape(n, c, h // patch, patch, w // patch, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(n, (h // patch) * (w // patch), c * patch * patch)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """Flattened patches (N, T, C * patch^2) to square images (N, C, S, S): the inverse of `patchify`."""
    n, t, d = patches.shape
    side, c = round(t**0.5), d // patch**2
    grid = patches.reshape(n, side, side, c, patch, patch)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(n, c, side * patch, side * patch)


def safe_deviation(variance: Tensor) -> Tensor:
    """Standard deviations (d,) to divide by, of variances (d,); without extent, a floor keeps the latents at zero."""
    floor = 1e-4 * variance.max().sqrt().clamp_min(torch.finfo(torch.float32).tiny ** 0.25)
    return variance.sqrt().clamp_min(floor)


def standard_divisor(variance: Tensor, scale: str) -> Tensor:
    """The divisor (d,) of latents of a variance (d,): each deviation for `dimension`, one for all for `global`."""
    return safe_deviation(variance) if scale == "dimension" else variance.mean().sqrt().expand(len(variance))
