"""Random windows of images, scaled to one size, for whole batches at once: by torchvision's rule or MAE's probe's."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ldae.randomness import Randomness

ATTEMPTS = 10  # to draw a window that lies inside the image
ELONGATED = math.log(4 / 3)  # the largest logarithm of a window's aspect ratio


class Windows(NamedTuple):
    """A window of each image of a batch, where an image reaches from -1 to 1."""

    x: Tensor  # (N,) of the centre
    y: Tensor
    width: Tensor  # (N,), as a share of the image's; negative where the window is mirrored
    height: Tensor


def random_resized_crop(
    images: Tensor, randomness: Randomness, smallest: float = 0.08, *, size: int | None = None
) -> Tensor:
    """A random window of each image, scaled to one size with bicubic interpolation, mirrored half of the time.

    Windows are those of `torchvision_windows`. All images of the batch are cropped in one call. A window is at most
    half as long again as the crop (`dataset.store`), and most are smaller, so nothing is antialiased.

    Args:
        images: (N, 3, S, S).
        randomness: on the images' device.
        smallest: the smallest share of the area.
        size: the side of the crops; None for that of the images.
    """
    pixels = images.shape[-1]
    return cut(images, torchvision_windows(len(images), randomness, smallest, pixels=pixels), size or pixels)


def probe_crop(images: Tensor, randomness: Randomness, *, size: int | None = None) -> Tensor:
    """The same with the windows of MAE's linear probe, `clamped_windows`, of at least 8 % of the area."""
    return cut(images, clamped_windows(len(images), randomness, 0.08), size or images.shape[-1])


def torchvision_windows(num: int, randomness: Randomness, smallest: float, *, pixels: int) -> Windows:
    """Windows of `num` square images as torchvision's `RandomResizedCrop` draws them, mirrored half of the time.

    The share of the area is uniform in `smallest`..1, the logarithm of the aspect ratio uniform in 3/4..4/3. What does
    not fit into the image is drawn again, and after ten attempts the whole image is taken. Windows are of whole pixels.
    """
    uniform = randomness.uniform(2 * ATTEMPTS + 3, num, batch=1)
    areas = pixels**2 * (smallest + (1 - smallest) * uniform[:ATTEMPTS])
    aspects = torch.exp((2 * uniform[ATTEMPTS : 2 * ATTEMPTS] - 1) * ELONGATED)
    widths, heights = (areas * aspects).sqrt().round(), (areas / aspects).sqrt().round()  # (ATTEMPTS, N)
    fits = (torch.minimum(widths, heights) > 0) & (torch.maximum(widths, heights) <= pixels)
    first = fits.int().argmax(0, keepdim=True)
    width, height = (torch.where(fits.any(0), sides.gather(0, first)[0], pixels) for sides in (widths, heights))
    left, top = (
        (draw * (pixels - side + 1)).floor().minimum(pixels - side)  # rounding may reach one pixel too far
        for draw, side in zip(uniform[-3:-1], (width, height), strict=True)
    )
    return Windows(
        x=(2 * left + width) / pixels - 1,
        y=(2 * top + height) / pixels - 1,
        width=torch.where(uniform[-1] < 0.5, -width, width) / pixels,
        height=height / pixels,
    )


def clamped_windows(num: int, randomness: Randomness, smallest: float) -> Windows:
    """Windows as MAE's linear probe draws them: a side that is longer than the image's is cut to it."""
    uniform = randomness.uniform(5, num, batch=1)
    area = smallest + (1 - smallest) * uniform[0]
    aspect = torch.exp((2 * uniform[1] - 1) * ELONGATED)
    width = (area * aspect).sqrt().clamp_max(1)
    height = (area / aspect).sqrt().clamp_max(1)
    return Windows(
        x=(2 * uniform[2] - 1) * (1 - width),
        y=(2 * uniform[3] - 1) * (1 - height),
        width=torch.where(uniform[4] < 0.5, -width, width),
        height=height,
    )


def cut(images: Tensor, windows: Windows, size: int) -> Tensor:
    """The windows of images (N, 3, S, S) in [-1, 1], scaled to (N, 3, size, size)."""
    stored = images.shape[-1]
    columns = bicubic(windows.x, windows.width, points=size, pixels=stored)
    rows = bicubic(windows.y, windows.height, points=size, pixels=stored)
    # one axis after the other: on a CPU in less than half of `grid_sample`'s time
    narrowed = images.flatten(1, 2) @ columns.transpose(1, 2)  # (N, 3 S, size)
    crops = rows[:, None] @ narrowed.unflatten(1, (3, stored))
    return crops.clamp_(-1, 1)


def bicubic(centre: Tensor, extent: Tensor, *, points: int, pixels: int) -> Tensor:
    """The weights (N, points, pixels) of a line's pixels in the points of a window, by bicubic interpolation.

    Args:
        centre, extent: of each window (N,), where the line reaches from -1 to 1; a negative extent mirrors it.
        points: of a window.
        pixels: of a line; beyond it, its outermost pixels go on.
    """
    steps = (2 * torch.arange(points, device=centre.device) + 1) / points - 1
    places = ((centre[:, None] + extent[:, None] * steps + 1) * pixels - 1) / 2  # (N, points), in pixels
    first = places.floor() - 1
    weights = torch.zeros(*places.shape, pixels, device=centre.device)
    for pixel in (first, first + 1, first + 2, first + 3):
        distance = (places - pixel).abs()
        near = (1.25 * distance - 2.25) * distance.square() + 1  # Keys (1981) with a = -0.75, as in torch
        far = ((3.75 - 0.75 * distance) * distance - 6) * distance + 3
        weight = torch.where(distance <= 1, near, far)
        weights.scatter_add_(2, pixel.clamp(0, pixels - 1).long()[..., None], weight[..., None])
    return weights
