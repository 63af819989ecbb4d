from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop

from ldae.crops import (
    Windows,
    clamped_windows,
    cubic,
    interpolation,
    linear,
    probe_crop,
    random_resized_crop,
    torchvision_windows,
)
from ldae.randomness import Randomness

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
    """MAE's own rule, and in numbers: what probes have been trained on stays what it was."""
    windows = clamped_windows(DRAWS, Randomness(torch.device("cpu"), 0), 0.08)
    full = (windows.width.abs() == 1) | (windows.height == 1)
    assert 0.13 < full.float().mean() < 0.16
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    crops = probe_crop(images, Randomness(torch.device("cpu"), 7))
    torch.testing.assert_close(
        crops.std((1, 2, 3)), torch.tensor([0.513984, 0.521060, 0.480568, 0.483020]), rtol=0, atol=1e-6
    )


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


@pytest.mark.parametrize("pixels", [16, 23])
def test_lines_are_interpolated_as_torch_does(pixels: int) -> None:
    """Windows that reach to both ends of the line, mirrored and not, where the outermost pixel goes on."""
    generator = torch.Generator().manual_seed(0)
    lines = torch.randn(7, pixels, generator=generator)
    extent = torch.rand(7, generator=generator) * torch.tensor([1, -1, 1, -1, 1, -1, 1])
    extent[:2] = torch.tensor([1.0, -1.0])
    centre = (1 - extent.abs()) * torch.tensor([0, 0, 1, 1, -1, -1, 0.5])
    found = torch.bmm(interpolation(centre, extent, points=24, pixels=pixels), lines[..., None])[..., 0]
    theta = torch.zeros(7, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = extent, centre
    grid = F.affine_grid(theta, [7, 1, 1, 24], align_corners=False)
    options = {"mode": "bicubic", "padding_mode": "border", "align_corners": False}
    expected = F.grid_sample(lines[:, None, None], grid, **options)[:, 0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pixels", [16, 20, 24])
def test_a_line_of_more_pixels_is_antialiased_as_torch_does(pixels: int) -> None:
    lines = torch.rand(5, pixels, generator=torch.Generator().manual_seed(0))
    whole = interpolation(torch.zeros(5), torch.ones(5), points=16, pixels=pixels, kernel=linear)
    expected = F.interpolate(lines[:, None, None], size=(1, 16), mode="bilinear", antialias=True)[:, 0, 0]
    found = torch.bmm(whole, lines[..., None])[..., 0]
    # torch leaves out what lies beyond the ends, where here the outermost pixel goes on
    torch.testing.assert_close(found[:, 1:-1], expected[:, 1:-1])
    for kernel in (linear, cubic):
        weights = interpolation(torch.zeros(1), torch.ones(1), points=16, pixels=pixels, kernel=kernel)
        torch.testing.assert_close(weights.sum(2), torch.ones(1, 16))


def test_a_crop_follows_from_its_randomness() -> None:
    images = torch.rand(4, 3, 16, 16)
    first, second = (random_resized_crop(images, Randomness(torch.device("cpu"), 7)) for _ in range(2))
    assert torch.equal(first, second)
    other = random_resized_crop(images, Randomness(torch.device("cpu"), 8))
    assert not torch.equal(first, other)


def test_windows_have_at_least_the_share_that_is_asked_for() -> None:
    images = torch.rand(5, 3, 16, 16) * 2 - 1
    crops = random_resized_crop(images, Randomness(torch.device("cpu"), 7), smallest=1.0)
    assert crops.shape == images.shape
    with pytest.raises(AssertionError):
        torch.testing.assert_close(crops, random_resized_crop(images, Randomness(torch.device("cpu"), 7), smallest=0.1))
