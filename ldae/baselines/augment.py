"""BYOL's augmentations, which MoCo v3 compares images across, for whole batches at once (MoCo v3, App. A).

Images are in [-1, 1]; what is said of brightness is said of them in [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ldae.dataset import random_resized_crop

SMALLEST_CROP = 0.08  # of the area
JITTERED, BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.8, 0.4, 0.4, 0.2, 0.1
GREYED = 0.2
BLURRED = (1.0, 0.1)  # the chance of it, in the first and in the second view
SOLARIZED = (0.0, 0.2)
SIGMAS = (0.1 / 224, 2.0 / 224)  # of the blur, as shares of the image's side
GREY = (0.299, 0.587, 0.114)  # what red, green and blue weigh in it
# Hue turns about the grey axis of YIQ; its matrix and the inverse, by the NTSC's definition.
YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def two_views(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two random views (N, 3, S, S) of images (N, 3, S, S) in [-1, 1], the generator on their device."""
    first, second = (
        augment(images, generator, blurred=b, solarized=s) for b, s in zip(BLURRED, SOLARIZED, strict=True)
    )
    return first, second


def augment(images: Tensor, generator: torch.Generator, *, blurred: float, solarized: float) -> Tensor:
    """One random view (N, 3, S, S); `blurred` and `solarized` are the chances of these two."""
    x = (random_resized_crop(images, generator, SMALLEST_CROP) + 1) / 2
    uniform = torch.rand(9, len(x), 1, 1, 1, generator=generator, device=x.device)
    jittered = jitter(
        x,
        brightness=1 + BRIGHTNESS * (2 * uniform[0] - 1),
        contrast=1 + CONTRAST * (2 * uniform[1] - 1),
        saturation=1 + SATURATION * (2 * uniform[2] - 1),
        turn=HUE * (2 * uniform[3] - 1),
    )
    x = torch.where(uniform[4] < JITTERED, jittered, x)
    x = torch.where(uniform[5] < GREYED, grey(x).expand_as(x), x)
    chosen = (uniform[6] < blurred).flatten().nonzero()[:, 0]
    if len(chosen):
        sigma = x.shape[-1] * (SIGMAS[0] + (SIGMAS[1] - SIGMAS[0]) * uniform[7, chosen].flatten())
        x = x.index_copy(0, chosen, blur(x[chosen], sigma))
    x = torch.where((uniform[8] < solarized) & (x >= 0.5), 1 - x, x)
    return 2 * x - 1


def grey(x: Tensor) -> Tensor:
    """The luminance (N, 1, S, S) of images (N, 3, S, S)."""
    return torch.einsum("nchw,c->nhw", x, x.new_tensor(GREY))[:, None]


def jitter(x: Tensor, *, brightness: Tensor, contrast: Tensor, saturation: Tensor, turn: Tensor) -> Tensor:
    """Images (N, 3, S, S) in [0, 1] with other colours, in this order; each factor is (N, 1, 1, 1).

    Args:
        x: the images.
        brightness: multiplies them.
        contrast: multiplies what differs from the mean luminance.
        saturation: multiplies what differs from each pixel's luminance.
        turn: of the hue, in full circles.
    """
    x = (x * brightness).clamp(0, 1)
    mean = grey(x).mean((2, 3), keepdim=True)
    x = torch.lerp(mean.expand_as(x), x, contrast).clamp(0, 1)
    x = torch.lerp(grey(x).expand_as(x), x, saturation).clamp(0, 1)
    return torch.einsum("nij,njhw->nihw", hue_rotation(turn.flatten()), x).clamp(0, 1)


def hue_rotation(turn: Tensor) -> Tensor:
    """The maps (N, 3, 3) of colours that turn their hue by shares (N,) of a circle."""
    to_yiq = turn.new_tensor(YIQ)
    angle = 2 * math.pi * turn
    rotation = torch.zeros(len(turn), 3, 3, device=turn.device)
    rotation[:, 0, 0] = 1
    rotation[:, 1, 1] = rotation[:, 2, 2] = angle.cos()
    rotation[:, 1, 2] = -angle.sin()
    rotation[:, 2, 1] = angle.sin()
    return torch.linalg.inv(to_yiq) @ rotation @ to_yiq


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Images (N, C, S, S), each with a Gaussian of its own `sigma` (N,) in pixels."""
    n, c, h, w = x.shape
    radius = min(max(1, math.ceil(2.5 * SIGMAS[1] * w)), w - 1)
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-offsets.square() / (2 * sigma[:, None].square()))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)  # (N C, 2 radius + 1)
    x = F.pad(x.reshape(1, n * c, h, w), (radius,) * 4, mode="reflect")
    x = F.conv2d(x, kernel[:, None, None, :], groups=n * c)
    return F.conv2d(x, kernel[:, None, :, None], groups=n * c).view(n, c, h, w)
