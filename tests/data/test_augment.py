"""The augmentations of MoCo v3's views, against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ldae.data import augment
from ldae.runtime.randomness import Randomness


def randomness() -> Randomness:
    return Randomness(torch.device("cpu"), 0)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_two_views_are_images_that_differ_and_repeat_with_their_generator(images: Tensor) -> None:
    first, second = augment.two_views(images, randomness())
    assert first.shape == second.shape == images.shape
    assert first.min() >= -1 - 1e-5 and first.max() <= 1 + 1e-5
    assert (first - second).abs().mean() > 0.05
    again, _ = augment.two_views(images, randomness())
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_views_are_cut_by_bilinear_interpolation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which keeps to the colours that there are; bicubic interpolation goes beyond them at edges."""
    for name in ("JITTERED", "GREYED"):
        monkeypatch.setattr(augment, name, 0.0)
    edges = 0.5 * (-1.0) ** torch.arange(8).repeat_interleave(8).expand(20, 3, 64, 64)
    view = augment.augment(edges, randomness(), blurred=0, solarized=0)
    assert 0.49 < view.abs().max() < 0.5 + 1e-5


def coloured(x: Tensor, **factors: float) -> Tensor:
    neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "turn": 0.0}
    given = {name: torch.full((len(x),), value) for name, value in (neutral | factors).items()}
    colours, offset = augment.jitter(x, **given)
    return (colours @ x.flatten(2) + offset).view_as(x)


def luminance(x: Tensor) -> Tensor:
    return 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]


def test_neutral_factors_and_a_full_turn_of_the_hue_change_no_colour(images: Tensor) -> None:
    x = (images + 1) / 2
    torch.testing.assert_close(coloured(x), x, rtol=0, atol=1e-5)
    torch.testing.assert_close(coloured(x, turn=1.0), x, rtol=0, atol=1e-5)


def test_each_factor_changes_what_its_name_says(images: Tensor) -> None:
    x = (images + 1) / 2
    grey = luminance(x)[:, None]
    mean = grey.mean((2, 3), keepdim=True)
    torch.testing.assert_close(coloured(x, brightness=0.7), 0.7 * x, rtol=0, atol=1e-5)
    torch.testing.assert_close(coloured(x, contrast=0.7), mean + 0.7 * (x - mean), rtol=0, atol=1e-5)
    torch.testing.assert_close(coloured(x, saturation=0.7), grey + 0.7 * (x - grey), rtol=0, atol=1e-5)
    turned = coloured(x, turn=0.1)
    torch.testing.assert_close(luminance(turned)[:, None], grey, rtol=0, atol=1e-4)
    assert (turned - x).abs().mean() > 0.03


def test_factors_together_come_one_after_the_other(images: Tensor) -> None:
    x = (images + 1) / 2
    one_by_one = coloured(coloured(coloured(coloured(x, brightness=1.2), contrast=0.8), saturation=1.1), turn=0.05)
    together = coloured(x, brightness=1.2, contrast=0.8, saturation=1.1, turn=0.05)
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-4)


def test_blur_is_a_gaussian_of_each_images_own_width() -> None:
    point = torch.zeros(2, 1, 65, 65)
    point[:, :, 32, 32] = 1
    blurred = augment.blur(point, torch.tensor([0.3, 0.55]))
    torch.testing.assert_close(blurred.sum((1, 2, 3)), torch.ones(2))
    for image, sigma in zip(blurred[:, 0], (0.3, 0.55), strict=True):
        assert (image[32, 33] / image[32, 32]).item() == pytest.approx(math.exp(-1 / (2 * sigma**2)), rel=1e-4)
        assert (image[33, 33] / image[32, 32]).item() == pytest.approx(math.exp(-1 / sigma**2), rel=1e-4)
