from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ldae.dataset import Order, Split, bicubic, flip, random_resized_crop, to_float
from ldae.randomness import Randomness, stream


@settings(max_examples=50, deadline=None)
@given(num=st.integers(1, 40), batch=st.integers(1, 90), start=st.integers(0, 100))
def test_the_order_depends_on_the_position_alone(num: int, batch: int, start: int) -> None:
    whole = Order(num, seed=1).slice(0, start + batch)
    assert Order(num, seed=1).slice(start, batch).tolist() == whole[start:].tolist()


def test_each_epoch_visits_every_image_once_in_a_new_order() -> None:
    order = Order(50, seed=2)
    first, second = order.slice(0, 50), order.slice(50, 50)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first.tolist() != second.tolist()
    assert Order(50, seed=3).slice(0, 50).tolist() != first.tolist()


def test_streams_of_randomness_differ() -> None:
    keys = [(seed, use, step) for seed in range(3) for use in range(3) for step in range(50)]
    assert len({stream(*key) for key in keys}) == len(keys)


def test_images_are_mapped_and_become_floats(prepared: Path) -> None:
    split = Split.open(prepared / "dataset", "train")
    assert isinstance(split.images.rows, np.memmap)
    images, labels = split.batch(np.array([5, 3]), torch.device("cpu"))
    assert images.dtype == torch.uint8
    assert labels.tolist() == [2, 0]
    np.testing.assert_array_equal(images[0], split.images.rows[5])
    values = to_float(torch.tensor([0, 255], dtype=torch.uint8))
    torch.testing.assert_close(values, torch.tensor([-1.0, 1.0]))


def test_half_of_the_images_are_mirrored() -> None:
    images = torch.arange(400 * 12, dtype=torch.int32).view(400, 1, 3, 4)
    flipped = flip(images, Randomness(torch.device("cpu"), 0))
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert ((flipped == images).flatten(1).all(1) ^ mirrored).all()
    assert 160 < int(mirrored.sum()) < 240


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
    found = torch.bmm(bicubic(centre, extent, points=16, pixels=pixels), lines[..., None])[..., 0]
    theta = torch.zeros(7, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = extent, centre
    grid = F.affine_grid(theta, [7, 1, 1, 16], align_corners=False)
    options = {"mode": "bicubic", "padding_mode": "border", "align_corners": False}
    expected = F.grid_sample(lines[:, None, None], grid, **options)[:, 0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


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
