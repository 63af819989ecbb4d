"""RandAugment on whole batches: two random operations an image, half of them left out (Cubuk et al., 2020).

The operations and what they make of a magnitude are those of timm's `rand-m9-mstd0.5-inc1`, which MAE fine-tunes with;
there they change one picture at a time in Pillow, with randomness of the process's own.

Inside, images are floats in 0..255. Shapes: n images (n, 3, S, S), levels and signs (n,).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ldae.runtime.randomness import Randomness

LAYERS = 2  # operations an image
APPLIED = 0.5  # the chance of each
SPREAD, HIGHEST = 0.5, 10.0  # of the magnitude: standard deviation, and the end of its range
LUMINANCE = (0.299, 0.587, 0.114)
FILL = (124.0, 116.0, 104.0)  # what comes into sight beyond an image's edges: ImageNet's mean, as timm rounds it
SMOOTH = ((1, 1, 1), (1, 5, 1), (1, 1, 1))  # Pillow's, over 13

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]  # images, levels in 0..1, signs


def rand_augment(images: Tensor, randomness: Randomness, magnitude: float) -> Tensor:
    """Two random operations on each of images (N, 3, S, S) in [-1, 1].

    Args:
        images: the batch, or this rank's part of it.
        randomness: on its device.
        magnitude: the mean strength, in 0..10.
    """
    x, num = (images + 1) * 127.5, len(images)
    for _ in range(LAYERS):
        which = randomness.integers(len(OPERATIONS), num)
        uniform = randomness.uniform(2, num, batch=1)
        level = (magnitude + SPREAD * randomness.normal(num)).clamp(0, HIGHEST) / HIGHEST
        sign = torch.where(uniform[0] < 0.5, -1.0, 1.0)
        which = which.masked_fill(uniform[1] >= APPLIED, -1)
        for number, operation in enumerate(OPERATIONS.values()):
            places = (which == number).nonzero()[:, 0]
            if len(places):
                x[places] = operation(x[places], level[places], sign[places])
    return x / 127.5 - 1


def each(values: Tensor) -> Tensor:
    """A number for each image (n,), to be combined with images."""
    return values.view(-1, 1, 1, 1)


def auto_contrast(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Stretches each channel to the whole range."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) * (255 / (high - low).clamp_min(1e-3)), x)


def equalize(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Makes all values of a channel equally frequent."""
    values = x.round().long().flatten(2)  # (n, 3, S S)
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.long, device=x.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    last = torch.where(counts > 0, torch.arange(256, device=x.device), -1).argmax(2, keepdim=True)
    step = (values.shape[2] - counts.gather(2, last)) // 255
    table = (step // 2 + counts.cumsum(2) - counts) // step.clamp_min(1)
    mapped = table.clamp_max(255).gather(2, values).view_as(x)
    return torch.where(step[..., None] > 0, mapped.to(x.dtype), x)


def invert(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """The negative."""
    return 255 - x


def posterize(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Keeps the highest bits of each value, from four down to none."""
    step = 2 ** (4 + (4 * level).floor())
    return (x.round() / each(step)).floor() * each(step)


def solarize(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Inverts what is above a threshold."""
    return torch.where(x < each(256 - (256 * level).floor()), x, 255 - x)


def solarize_add(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Makes the darker half of the values brighter."""
    return torch.where(x < 128, (x + each((110 * level).floor())).clamp_max(255), x)


def luminance(x: Tensor) -> Tensor:
    """The brightness (n, 1, S, S) of each pixel."""
    return torch.einsum("nchw,c->nhw", x, x.new_tensor(LUMINANCE))[:, None]


def blend(plain: Tensor, x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Moves images away from a plainer version of themselves, or towards it."""
    factor = (1 + 0.9 * level * sign).clamp_min(0.1)
    return (plain + each(factor) * (x - plain)).clamp(0, 255)


def colour(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Away from their grey version."""
    return blend(luminance(x), x, level, sign)


def contrast(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Away from the mean of their brightness."""
    return blend(luminance(x).mean((2, 3), keepdim=True), x, level, sign)


def brightness(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Away from black."""
    return blend(torch.zeros_like(x), x, level, sign)


def sharpness(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Away from a smoothed version, whose outermost pixels are the image's own."""
    kernel = (x.new_tensor(SMOOTH) / 13).expand(3, 1, 3, 3)
    smooth = x.clone()
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(x, kernel, groups=3)
    return blend(smooth, x, level, sign)


def moved(x: Tensor, rows: list[list[Tensor | float]]) -> Tensor:
    """Images whose pixel at (u, v), in -1..1 from edge to edge, is the one at A (u, v, 1), bicubically.

    Args:
        x: the images.
        rows: of the affine map A (2, 3), each entry one number or one for each image (n,).
    """
    theta = torch.stack([torch.stack([x.new_zeros(len(x)) + entry for entry in row], dim=1) for row in rows], dim=1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)  # (n, S, S, 2)
    found = F.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 255)
    inside = (grid.abs() <= 1).all(-1)[:, None]
    return torch.where(inside, found, x.new_tensor(FILL)[:, None, None])


def rotate(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """By at most 30 degrees about the centre."""
    angle = torch.deg2rad(30 * level * sign)
    return moved(x, [[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0]])


def shear_x(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Slides each row by at most 0.3 of its distance from the top edge."""
    factor = 0.3 * level * sign
    return moved(x, [[1.0, factor, factor], [0.0, 1.0, 0.0]])


def shear_y(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Slides each column by at most 0.3 of its distance from the left edge."""
    factor = 0.3 * level * sign
    return moved(x, [[1.0, 0.0, 0.0], [factor, 1.0, factor]])


def translate_x(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """By at most 0.45 of the width."""
    return moved(x, [[1.0, 0.0, 0.9 * level * sign], [0.0, 1.0, 0.0]])


def translate_y(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """By at most 0.45 of the height."""
    return moved(x, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.9 * level * sign]])


OPERATIONS: dict[str, Operation] = {  # by timm's names
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "PosterizeIncreasing": posterize,
    "SolarizeIncreasing": solarize,
    "SolarizeAdd": solarize_add,
    "ColorIncreasing": colour,
    "ContrastIncreasing": contrast,
    "BrightnessIncreasing": brightness,
    "SharpnessIncreasing": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateXRel": translate_x,
    "TranslateYRel": translate_y,
}
