"""Augmentations of batches (N, 3, S, S) in [-1, 1]: views of MoCo v3; RandAugment, mixup and cutmix of fine-tuning."""

from __future__ import annotations

import math
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
from torch.nn import functional as F

from ldae.data.crops import linear, random_resized_crop
from ldae.data.prepared import to_float, to_uint8
from ldae.runtime.randomness import Randomness
from ldae.study.recipes import Finetuning

# BYOL's augmentations, as in MoCo v3's App. A; brightness, colours and thresholds refer to images in [0, 1].
SMALLEST_CROP = 0.08  # of the area
JITTERED, BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.8, 0.4, 0.4, 0.2, 0.1
GREYED = 0.2
BLURRED = (1.0, 0.1)  # the probability in the first and in the second view
SOLARIZED = (0.0, 0.2)
SIGMAS = (0.1 / 224, 2.0 / 224)  # of the blur, relative to the image's side
GREY = (0.299, 0.587, 0.114)  # the weights of red, green and blue in luminance
# Hue rotates about the grey axis of NTSC's YIQ, whose first row is the luminance.
YIQ = (GREY, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))

FILL = (124, 116, 104)  # for pixels from outside the image: ImageNet's mean
HIGHEST = 9.99  # magnitude; at 10, posterize would keep 0 bits of a value, which Pillow refuses

Operation = Callable[[Image.Image], Image.Image]


def two_views(images: Tensor, randomness: Randomness, *, size: int | None = None) -> tuple[Tensor, Tensor]:
    """Two random views (N, 3, S, S) of images (N, 3, S', S') in [-1, 1]; S is `size`, or S'."""
    first = augment(images, randomness, blurred=BLURRED[0], solarized=SOLARIZED[0], size=size)
    return first, augment(images, randomness, blurred=BLURRED[1], solarized=SOLARIZED[1], size=size)


def augment(
    images: Tensor, randomness: Randomness, *, blurred: float, solarized: float, size: int | None = None
) -> Tensor:
    """One random view (N, 3, S, S); `blurred` and `solarized` are probabilities."""
    x = (random_resized_crop(images, randomness, SMALLEST_CROP, size=size, kernel=linear) + 1) / 2
    uniform = randomness.uniform(9, len(x), batch=1)
    brightness, contrast, saturation = (
        1 + strength * (2 * uniform[i] - 1) for i, strength in enumerate((BRIGHTNESS, CONTRAST, SATURATION))
    )
    colours, offset = jitter(
        x, brightness=brightness, contrast=contrast, saturation=saturation, turn=HUE * (2 * uniform[3] - 1)
    )
    plain = (uniform[4] >= JITTERED)[:, None, None]
    colours, offset = torch.where(plain, torch.eye(3, device=x.device), colours), torch.where(plain, 0.0, offset)
    colours = torch.where((uniform[5] < GREYED)[:, None, None], to_grey(x.device) @ colours, colours)
    x = torch.baddbmm(offset, colours, x.flatten(2)).view_as(x).clamp_(0, 1)
    sigma = x.shape[-1] * (SIGMAS[0] + (SIGMAS[1] - SIGMAS[0]) * uniform[7])
    chosen = (uniform[6] < blurred).nonzero()[:, 0]
    if len(chosen):
        x[chosen] = blur(x[chosen], sigma[chosen])
    x = torch.where((uniform[8] < solarized)[:, None, None, None] & (x >= 0.5), 1 - x, x)
    return 2 * x - 1


def to_grey(device: torch.device) -> Tensor:
    """The matrix (3, 3) that maps colours to grey of their luminance."""
    return torch.tensor(GREY, device=device).expand(3, 3)


def jitter(
    x: Tensor, *, brightness: Tensor, contrast: Tensor, saturation: Tensor, turn: Tensor
) -> tuple[Tensor, Tensor]:
    """Colour jitter of images (N, 3, S, S) as one affine map per image: a matrix (N, 3, 3) and an offset (N, 1, 1).

    The changes (N,) are applied in the order of the arguments; values are clipped to [0, 1] only at the end. Brightness
    multiplies pixels, contrast their difference from the mean luminance, saturation that from each pixel's luminance;
    `turn` is the rotation of the hue in full circles.
    """
    brightness, contrast, saturation = (f[:, None, None] for f in (brightness, contrast, saturation))
    grey = to_grey(x.device)
    mean = (x.mean((2, 3)) @ grey[0])[:, None, None]
    colours = hue_rotation(turn) @ torch.lerp(grey, torch.eye(3, device=x.device), saturation) * brightness * contrast
    return colours, (1 - contrast) * brightness * mean  # grey, which neither saturation nor hue changes


def hue_rotation(turn: Tensor) -> Tensor:
    """The colour matrices (N, 3, 3) that rotate the hue by fractions (N,) of a circle."""
    to_yiq, angle = turn.new_tensor(YIQ), 2 * math.pi * turn
    rotation = torch.eye(3, device=turn.device).repeat(len(turn), 1, 1)
    rotation[:, 1, 1] = rotation[:, 2, 2] = angle.cos()
    rotation[:, 2, 1] = angle.sin()
    rotation[:, 1, 2] = -angle.sin()
    return torch.linalg.inv(to_yiq) @ rotation @ to_yiq


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blurs images (N, C, S, S) with Gaussians of standard deviations `sigma` (N,) in pixels."""
    n, c, h, w = x.shape
    radius = min(max(1, math.ceil(2.5 * SIGMAS[1] * w)), w - 1)
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-offsets.square() / (2 * sigma[:, None].square()))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)  # (N C, 2 radius + 1)
    x = F.pad(x.reshape(1, n * c, h, w), (radius,) * 4, mode="reflect")
    x = F.conv2d(x, kernel[:, None, None, :], groups=n * c)
    return F.conv2d(x, kernel[:, None, :, None], groups=n * c).view(n, c, h, w)


def rand_augment(images: Tensor, randomness: Randomness, magnitude: float) -> Tensor:
    """RandAugment (Cubuk et al., 2020) by timm's `rand-m9-mstd0.5-inc1` on Pillow images, as in MAE's fine-tuning.

    Two random operations, each with probability 0.5, are applied to every image, rounded to 8 bits. `magnitude` in
    0..10 is the mean strength of an operation; its standard deviation is 0.5.
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


def mixed(
    images: Tensor, labels: Tensor, randomness: Randomness, *, classes: int, recipe: Finetuning
) -> tuple[Tensor, Tensor]:
    """Mixup and cutmix (Zhang et al., 2018; Yun et al., 2019) of images and their labels (N,), by torchvision.

    Each pair of neighbours is mixed with a share of its own, as in timm's mode `pair`. A pair belongs to one rank, so
    the result does not depend on the number of ranks. The last image of an odd batch stays as it is. The recipe has
    the parameters of the two Beta distributions; 0 switches a method off. Where it has both, each pair gets one of them
    with equal probability.

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
