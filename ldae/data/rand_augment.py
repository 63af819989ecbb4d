"""RandAugment (Cubuk et al., 2020): timm's `rand-m9-mstd0.5-inc1` on Pillow images, which MAE fine-tunes with."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ldae.data.prepared import to_float, to_uint8
from ldae.runtime.randomness import Randomness

FILL = (124, 116, 104)  # for pixels from outside the image: ImageNet's mean
HIGHEST = 9.99  # magnitude; at 10, posterize would keep 0 bits of a value, which Pillow refuses

Operation = Callable[[Image.Image], Image.Image]


def rand_augment(images: Tensor, randomness: Randomness, magnitude: float) -> Tensor:
    """Applies two random operations, each with probability 0.5, to every image (N, 3, S, S) in [-1, 1].

    The images are rounded to 8 bits. `magnitude` in 0..10 is the mean strength of an operation; its standard deviation
    is 0.5.
    """
    seeds = randomness.integers(2**32, len(images)).tolist()
    pixels = to_uint8(images).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        augmented = list(threads.map(_apply, pixels, drawn(seeds, magnitude)))
    return to_float(torch.from_numpy(np.stack(augmented)).to(images.device).permute(0, 3, 1, 2).contiguous())


def drawn(seeds: list[int], magnitude: float) -> list[list[Operation]]:
    """The operations for each image, in order, by its seed in 0..2**32 - 1.

    timm draws from the global generators of Python and NumPy as it changes an image. Here it only draws, so that
    threads can change the images; the generators' states are restored.
    """
    from timm.data.auto_augment import rand_augment_transform  # takes seconds to import

    options = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC, "magnitude_max": HIGHEST}
    transform = rand_augment_transform("rand-mstd0.5-inc1", options)
    for operation in transform.ops:
        operation.magnitude = magnitude  # the string could give whole numbers only
        operation.aug_fn = partial(_postponed, operation.aug_fn)
    states = random.getstate(), np.random.get_state()
    operations = []
    for seed in seeds:
        random.seed(seed)
        np.random.seed(seed)
        operations.append(transform([]))
    random.setstate(states[0])
    np.random.set_state(states[1])
    return operations


def _postponed(
    change: Callable[..., Image.Image], operations: list[Operation], *arguments: Any, **options: Any
) -> list[Operation]:
    return [*operations, lambda image: change(image, *arguments, **options)]


def _apply(pixels: NDArray[np.uint8], operations: list[Operation]) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    for operation in operations:
        image = operation(image)
    return np.asarray(image)
