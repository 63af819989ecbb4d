"""Mixup and cutmix: images blended in pairs, or with a part exchanged, and their labels alike (Zhang 2018; Yun 2019).

The pairs are neighbours in a batch, whose order is random anyway, so that each pair belongs to one process. Every pair
has a share of its own, where timm's default is one for the batch; the loss's expectation is the same.
"""

from __future__ import annotations

import torch
from scipy.special import betaincinv
from torch import Tensor

from ldae.runtime.randomness import Randomness
from ldae.study.spec import Finetuning


def mixed(
    images: Tensor, labels: Tensor, randomness: Randomness, *, classes: int, recipe: Finetuning
) -> tuple[Tensor, Tensor]:
    """Images (N, 3, S, S), N even, mixed within their pairs; and the probabilities (N, classes) to predict.

    Where both are asked for, each pair is blended or cut with equal chances.

    Args:
        images: the batch, or this rank's part of it.
        labels: (N,).
        randomness: on the images' device.
        classes: of the data set.
        recipe: the parameters of the two Beta distributions, and the smoothing of labels.

    Raises:
        ValueError: for an image without a partner.
    """
    targets = smoothed(labels, classes, recipe.smoothing)
    if not recipe.mixup and not recipe.cutmix:
        return images, targets
    num, size = len(images), images.shape[-1]
    if num % 2:
        raise ValueError(
            f"finetuning.batch: {num} images a process are no pairs, which mixup and cutmix take; halve it"
        )
    uniform = randomness.uniform(4, num // 2, batch=1)
    cut = uniform[0] < (0.5 if recipe.mixup and recipe.cutmix else float(recipe.cutmix > 0))
    share = torch.where(cut, beta(uniform[1], recipe.cutmix), beta(uniform[1], recipe.mixup))
    windows = window(share, uniform[2], uniform[3], size)  # (N / 2, S, S)
    own = torch.where(cut[:, None, None], (~windows).to(images.dtype), share[:, None, None])
    share = own.mean((1, 2))  # of a window that reaches beyond the edges, what is left of it
    own, share = own.repeat_interleave(2, 0)[:, None], share.repeat_interleave(2)[:, None]
    partner = torch.arange(num, device=images.device) ^ 1
    return torch.lerp(images[partner], images, own), torch.lerp(targets[partner], targets, share)


def smoothed(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Probabilities (N, classes) of labels (N,), of which `smoothing` is spread over all classes."""
    targets = torch.full((len(labels), classes), smoothing / classes, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + smoothing / classes)


def beta(uniform: Tensor, parameter: float) -> Tensor:
    """Numbers (n,) of Beta(a, a) at the quantiles `uniform` (n,); ones where a is 0 and nothing is mixed."""
    if not parameter:
        return torch.ones_like(uniform)
    quantiles = betaincinv(parameter, parameter, uniform.double().cpu().numpy())
    return torch.from_numpy(quantiles).to(uniform)


def window(share: Tensor, row: Tensor, column: Tensor, size: int) -> Tensor:
    """Marks (n, S, S) the squares of area 1 - `share` about random centres, as far as they are in the image.

    Args:
        share: of the image that stays (n,).
        row, column: of the centres (n,), in 0..1.
        size: S.
    """
    half = (size * (1 - share).sqrt()).floor().div(2, rounding_mode="floor")[:, None]
    places = torch.arange(size, device=share.device)
    inside = [
        (places >= centre - half) & (places < centre + half)
        for centre in ((size * c).floor()[:, None] for c in (row, column))
    ]
    return inside[0][:, :, None] & inside[1][:, None, :]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy (N,) of logits (N, C) with probabilities (N, C)."""
    return -(targets * logits.log_softmax(-1)).sum(-1)
