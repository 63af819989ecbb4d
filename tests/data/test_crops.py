from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop

from ldae.data.crops import (
    Kernel,
    Windows,
    clamped_windows,
    cubic,
    cut,
    interpolation,
    linear,
    probe_crop,
    random_resized_crop,
    torchvision_windows,
)
from ldae.runtime.randomness import Randomness

PIXELS, DRAWS = 64, 10_000


def torchvisions(smallest: float) -> Windows:
    """Windows that torchvision has drawn, one image after the other."""
    torch.manual_seed(0)
    image = torch.empty(3, PIXELS, PIXELS)
    drawn = [RandomResizedCrop.get_params(image, [smallest, 1], [3 / 4, 4 / 3]) for _ in range(DRAWS)]
    top, left, height, width = torch.tensor(drawn, dtype=torch.float32).T
    return Windows((2 * left + width) / PIXELS - 1, (2 * top + height) / PIXELS - 1, width / PIXELS, height / PIXELS)


def what_is_drawn(windows: Windows) -> dict[str, Tensor]:
    """Quantities (N,) of windows whose means are compared."""
    width, height = windows.width.abs(), windows.height
    return {
        "area": width * height,
        "aspect": (width / height).log(),
        "elongation": (width / height).log().abs(),
        "full side": ((width == 1) | (height == 1)).float(),
        "x": windows.x,
        "distance from the centre": windows.x.square() + windows.y.square(),
        "left edge": ((windows.x - width + 1).abs() < 1e-6).float(),
    }


@pytest.mark.parametrize("smallest", [0.08, 0.2])
def test_windows_are_drawn_as_torchvision_draws_them(smallest: float) -> None:
    randomness = Randomness(torch.device("cpu"), 0)
    ours = what_is_drawn(torchvision_windows(DRAWS, randomness, smallest, pixels=PIXELS))
    for name, theirs in what_is_drawn(torchvisions(smallest)).items():
        error = math.sqrt((ours[name].var() + theirs.var()) / DRAWS)
        assert abs(ours[name].mean() - theirs.mean()) < 4 * error, name


def test_where_no_window_fits_the_whole_image_is_taken() -> None:
    windows = torchvision_windows(50, Randomness(torch.device("cpu"), 0), 1.0, pixels=10_000)
    assert windows.width.abs().tolist() == windows.height.tolist() == [1.0] * 50
    assert windows.x.tolist() == windows.y.tolist() == [0.0] * 50


def test_the_probes_windows_are_cut_to_the_image() -> None:
    """MAE's own rule: an area and a shape are drawn once, and a side that is too long becomes the image's."""
    windows = clamped_windows(DRAWS, Randomness(torch.device("cpu"), 0), 0.08)
    rng = np.random.default_rng(0)
    area, aspect = rng.uniform(0.08, 1, DRAWS), np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), DRAWS))
    width, height = (np.minimum(np.sqrt(side), 1) for side in (area * aspect, area / aspect))
    expected = {"area": width * height, "full side": (width == 1) | (height == 1)}
    ours = what_is_drawn(windows)
    for name in ("area", "full side"):
        theirs = torch.from_numpy(expected[name]).float()
        error = math.sqrt((ours[name].var() + theirs.var()) / DRAWS)
        assert abs(ours[name].mean() - theirs.mean()) < 4 * error, name
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    randomness = [Randomness(torch.device("cpu"), 7) for _ in range(2)]
    crops = cut(images, clamped_windows(4, randomness[0], 0.08), 16, cubic)
    torch.testing.assert_close(probe_crop(images, randomness[1]), crops, rtol=0, atol=0)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_window_does_not_depend_on_the_number_of_processes(parts: int) -> None:
    device = torch.device("cpu")
    together = torchvision_windows(8, Randomness(device, 3), 0.2, pixels=PIXELS)
    apart = [
        torchvision_windows(8 // parts, Randomness(device, 3, part=part, parts=parts), 0.2, pixels=PIXELS)
        for part in range(parts)
    ]
    for whole, *pieces in zip(together, *apart, strict=True):
        assert torch.equal(whole, torch.cat(pieces))


def test_a_crop_is_a_window_of_its_image() -> None:
    axis = torch.linspace(-1, 1, 32)
    ramp = torch.stack([axis.expand(32, 32), axis[:, None].expand(32, 32), torch.zeros(32, 32)])
    crops = random_resized_crop(ramp.expand(300, -1, -1, -1), Randomness(torch.device("cpu"), 0))
    assert crops.abs().max() <= 1
    inner = crops[:, :, 4:-4, 4:-4]
    slopes_x, slopes_y = inner[:, 0].diff(dim=2), inner[:, 1].diff(dim=1)
    for slopes in (slopes_x, slopes_y):  # enlarging a ramp by bicubic interpolation leaves a gentler ramp
        assert (slopes - slopes.mean((1, 2), keepdim=True)).abs().max() < 0.01
    width, height = (slopes.mean((1, 2)).abs() / (2 / 31) for slopes in (slopes_x, slopes_y))
    area = width * height
    assert 0.07 < area.min() < 0.2
    assert 0.9 < area.max() < 1.02
    assert 0.70 < (width / height).min() and (width / height).max() < 1.40
    assert 110 < int((slopes_x.mean((1, 2)) < 0).sum()) < 190
    assert (slopes_y.mean((1, 2)) > 0).all()


@pytest.mark.parametrize(("kernel", "filter"), [(cubic, Resampling.BICUBIC), (linear, Resampling.BILINEAR)])
@pytest.mark.parametrize("size", [12, 20, 48])
def test_windows_are_scaled_as_pillow_scales_them(size: int, kernel: Kernel, filter: Resampling) -> None:
    """Windows of whole pixels: within the image, mirrored, and at its edges, beyond which Pillow knows nothing."""
    picture, pixels = 0.1 * torch.randn(PIXELS, PIXELS, generator=torch.Generator().manual_seed(0)), PIXELS
    left, top, width, height = torch.tensor(
        [[8, 9, 30, 22], [20, 6, 19, 33], [0, 40, 24, 24], [0, 0, 64, 64]], dtype=torch.float32
    ).T
    mirrored = torch.tensor([1, -1, 1, -1])
    windows = Windows(
        (2 * left + width) / pixels - 1, (2 * top + height) / pixels - 1, mirrored * width / pixels, height / pixels
    )
    found = cut(picture.expand(4, 3, -1, -1), windows, size, kernel)
    image = Image.fromarray(picture.numpy())
    for number, crop in enumerate(found):
        x, y, w, h = (sides[number].item() for sides in (left, top, width, height))
        scaled = torch.from_numpy(np.array(image.resize((size, size), filter, box=(x, y, x + w, y + h))))
        expected = scaled.flip(1) if mirrored[number] < 0 else scaled
        edge = 4 if number > 1 else 0
        inner = slice(edge, size - edge)
        torch.testing.assert_close(crop[0, inner, inner], expected[inner, inner], rtol=0, atol=1e-5)


@pytest.mark.parametrize("pixels", [16, 23])
def test_the_outermost_pixels_of_a_line_go_on_beyond_its_ends(pixels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    lines = torch.randn(7, pixels, generator=generator)
    extent = torch.rand(7, generator=generator) * torch.tensor([1, -1, 1, -1, 1, -1, 1])
    extent[:2] = torch.tensor([1.0, -1.0])
    centre = (1 - extent.abs()) * torch.tensor([0, 0, 1, 1, -1, -1, 0.5])
    weights = interpolation(centre, extent, points=24, pixels=pixels, kernel=linear)
    theta = torch.zeros(7, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = extent, centre
    grid = F.affine_grid(theta, [7, 1, 1, 24], align_corners=False)
    expected = F.grid_sample(lines[:, None, None], grid, padding_mode="border", align_corners=False)[:, 0, 0]
    torch.testing.assert_close(torch.bmm(weights, lines[..., None])[..., 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [linear, cubic])
@pytest.mark.parametrize("points", [12, 16, 40])
def test_what_is_of_one_colour_keeps_it(points: int, kernel: Kernel) -> None:
    weights = interpolation(torch.tensor([0.0, 0.4]), torch.tensor([1.0, 0.6]), points=points, pixels=16, kernel=kernel)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, points))


def test_a_crop_follows_from_its_randomness() -> None:
    images = torch.rand(4, 3, 16, 16)
    first, second = (random_resized_crop(images, Randomness(torch.device("cpu"), 7)) for _ in range(2))
    assert torch.equal(first, second)
    other = random_resized_crop(images, Randomness(torch.device("cpu"), 8))
    assert not torch.equal(first, other)
