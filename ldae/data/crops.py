"""Random resized crops of whole batches, by the rule of torchvision or of MAE's linear probe."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ldae.runtime.randomness import Randomness

ATTEMPTS = 10  # to draw a window that lies inside the image
AT_ONCE = 512  # images, which bounds the memory that weights and half-finished crops take
REACH = 2  # pixels, of the kernels below
ELONGATED = math.log(4 / 3)  # the largest logarithm of a window's aspect ratio

Kernel = Callable[[Tensor], Tensor]  # what a pixel weighs, by its distance in pixels


class Windows(NamedTuple):
    """One window for each image of a batch, in coordinates from -1 to 1 across the image."""

    x: Tensor  # (N,) of the centre
    y: Tensor
    width: Tensor  # (N,), as a share of the image's; negative where the window is mirrored
    height: Tensor


def cubic(distance: Tensor) -> Tensor:
    """Keys's kernel (1981) of bicubic interpolation with a = -0.5, as in Pillow, at distances in pixels."""
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    return torch.where(distance <= 1, near, torch.where(distance < REACH, far, 0.0))


def linear(distance: Tensor) -> Tensor:
    """The kernel of bilinear interpolation."""
    return (1 - distance).clamp_min(0)


def random_resized_crop(
    images: Tensor, randomness: Randomness, smallest: float = 0.08, *, size: int | None = None, kernel: Kernel = cubic
) -> Tensor:
    """Random windows (`torchvision_windows`) of images (N, 3, S, S), scaled to (N, 3, size, size), or to their size."""
    pixels = images.shape[-1]
    windows = torchvision_windows(len(images), randomness, smallest, pixels=pixels)
    return cut(images, windows, size or pixels, kernel)


def probe_crop(images: Tensor, randomness: Randomness, *, size: int | None = None) -> Tensor:
    """Random crops of MAE's linear probe (`clamped_windows`), of at least 8 % of the area."""
    return cut(images, clamped_windows(len(images), randomness, 0.08), size or images.shape[-1], cubic)


def torchvision_windows(num: int, randomness: Randomness, smallest: float, *, pixels: int) -> Windows:
    """Windows of `num` square images like torchvision's `RandomResizedCrop`, mirrored with probability one half.

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
    """Windows like those of MAE's linear probe: sides are clamped to the image's."""
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


def cut(images: Tensor, windows: Windows, size: int, kernel: Kernel) -> Tensor:
    """The windows of images (N, 3, S, S) in [-1, 1], scaled to (N, 3, size, size)."""
    pixels = images.shape[-1]
    crops = images.new_empty(len(images), 3, size, size)
    for start in range(0, len(images), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        columns = interpolation(windows.x[part], windows.width[part], points=size, pixels=pixels, kernel=kernel)
        rows = interpolation(windows.y[part], windows.height[part], points=size, pixels=pixels, kernel=kernel)
        # one axis after the other: on a CPU in less than half of `grid_sample`'s time
        narrowed = images[part].flatten(1, 2) @ columns.transpose(1, 2)  # (n, 3 S, size)
        torch.matmul(rows[:, None], narrowed.unflatten(1, (3, pixels)), out=crops[part])
    return crops.clamp_(-1, 1)


def interpolation(centre: Tensor, extent: Tensor, *, points: int, pixels: int, kernel: Kernel = cubic) -> Tensor:
    """The interpolation weights (N, points, pixels) from a row of pixels to the points of a window.

    Where a window has more pixels than points, the kernel is widened by that factor against aliasing, as in Pillow.
    `centre` and `extent` (N,) are those of `Windows`. Beyond the row, the outermost pixels are repeated.
    """
    steps = (2 * torch.arange(points, device=centre.device) + 1) / points - 1
    places = ((centre[:, None] + extent[:, None] * steps + 1) * pixels - 1) / 2  # (N, points), in pixels
    wider = (extent.abs() * pixels / points).clamp_min(1)[:, None]
    reach = math.ceil(REACH * max(1, pixels / points))  # of the widest
    first = places.floor() - (reach - 1)
    weights = torch.zeros(*places.shape, pixels, device=centre.device)
    for number in range(2 * reach):
        pixel = first + number
        weight = kernel((places - pixel).abs() / wider)
        weights.scatter_add_(2, pixel.clamp(0, pixels - 1).long()[..., None], weight[..., None])
    return weights / weights.sum(2, keepdim=True) if pixels > points else weights
