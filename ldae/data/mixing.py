"""Mixup and cutmix (Zhang et al., 2018; Yun et al., 2019): torchvision's, with the random numbers of a training step.

Each pair of neighbours in a batch is mixed with a share of its own, as in timm's mode `pair`. A pair belongs to one
rank, so the result does not depend on the number of ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ldae.runtime.randomness import Randomness
from ldae.study.recipes import Finetuning


def mixed(
    images: Tensor, labels: Tensor, randomness: Randomness, *, classes: int, recipe: Finetuning
) -> tuple[Tensor, Tensor]:
    """Mixes images (N, 3, S, S) and their labels (N,) in pairs; the last image of an odd batch stays as it is.

    The recipe has the parameters of the two Beta distributions; 0 switches a method off. Where it has both mixup and
    cutmix, each pair gets one of them with equal probability.

    Returns:
        The images, and targets for `F.cross_entropy`: probabilities (N, classes), or the labels where nothing is mixed.
    """
    from torchvision.transforms import v2  # takes a second to import

    methods = [(v2.MixUp, recipe.mixup), (v2.CutMix, recipe.cutmix)]
    transforms = [method(alpha=alpha, num_classes=classes) for method, alpha in methods if alpha]
    if not transforms:
        return images, labels
    mix, pairs = v2.RandomChoice(transforms), []
    seeds = randomness.integers(2**62, len(images))[::2].tolist()
    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator on the CPU
        for seed, *pair in zip(seeds, images.split(2), labels.split(2), strict=True):
            torch.default_generator.manual_seed(seed)
            pairs.append(mix(*pair))
    mixed_images, targets = zip(*pairs, strict=True)
    return torch.cat(mixed_images), torch.cat(targets)
