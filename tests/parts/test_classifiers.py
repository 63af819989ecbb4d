from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ldae.parts.classifiers import CLASSIFIERS, SmallResNet, SmallVGG, StandardisedConv


@pytest.mark.parametrize("size", [32, 64, 128])
def test_vggs_maps_halve_from_stage_to_stage(size: int) -> None:
    network = SmallVGG(5, 4)
    images = torch.randn(2, 3, size, size)
    shapes = [tuple(each.shape) for each in network.stages(images)]
    assert shapes == [(2, 4 * factor, size >> i, size >> i) for i, factor in enumerate((1, 2, 4, 8, 8))]
    assert all((each >= 0).all() and (each > 0).any() for each in network.stages(images))
    assert network(images).shape == (2, 5)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_the_resnets_features_are_as_many_at_every_size(size: int) -> None:
    network = SmallResNet(5, 8)
    images = torch.randn(2, 3, size, size)
    assert network.features(images).shape == (2, 64)
    assert network(images).shape == (2, 5)


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_every_weight_gets_a_finite_gradient(kind: str, size: int) -> None:
    torch.manual_seed(0)
    network = CLASSIFIERS[kind](5, 8)
    F.cross_entropy(network(torch.randn(4, 3, size, size)), torch.arange(4)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_the_logits_are_a_linear_map_of_the_averaged_features(kind: str) -> None:
    network = CLASSIFIERS[kind](5, 4).eval()
    images = torch.randn(2, 3, 32, 32)
    if isinstance(network, SmallVGG):
        features = network.stages(images)[-1].mean((2, 3))
    else:
        assert isinstance(network, SmallResNet)
        features = network.features(images)
    torch.testing.assert_close(network(images), features @ network.head.weight.T + network.head.bias)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_classes_that_differ_in_colour_are_learned(kind: str) -> None:
    torch.manual_seed(0)
    network = CLASSIFIERS[kind](3, 4)
    labels = torch.arange(48) % 3
    images = 0.3 * torch.randn(48, 3, 32, 32)
    images[torch.arange(48), labels] += 0.3
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    assert (network.eval()(images).argmax(1) == labels).float().mean() > 0.95


def test_vggs_activations_depend_neither_on_the_batch_nor_on_the_mode() -> None:
    network = SmallVGG(5, 4)
    images = torch.randn(4, 3, 32, 32)
    together = network.train().stages(images)
    alone = network.eval().stages(images[:1])
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours[:1], theirs)


def test_an_activation_of_vgg_depends_on_the_pixels_below_it_alone() -> None:
    network = SmallVGG(5, 4)
    images = torch.randn(1, 3, 64, 64)
    changed = images.clone()
    changed[..., 32:] = 0
    for before, after in zip(network.stages(images)[:3], network.stages(changed)[:3], strict=True):
        quarter = before.shape[-1] // 4
        assert torch.equal(before[..., :quarter], after[..., :quarter])
        assert not torch.equal(before, after)


def test_vgg_sees_brightness() -> None:
    torch.manual_seed(0)
    grey = torch.full((1, 3, 64, 64), 0.2)
    network = SmallVGG(5, 4)
    for dark, bright in zip(network.stages(grey), network.stages(grey + 0.5), strict=True):
        centre = dark.shape[-1] // 2
        assert not torch.equal(dark[..., centre, centre], bright[..., centre, centre])


def test_filters_are_standardised_whatever_the_weights() -> None:
    torch.manual_seed(0)
    layer = StandardisedConv(5, 4)
    images = torch.randn(2, 5, 8, 8)
    before = layer(images)
    layer.weight.data = layer.weight.data * 7 + 2
    torch.testing.assert_close(layer(images), before, rtol=1e-4, atol=1e-5)
    reference = nn.Conv2d(5, 4, 3, padding=1, bias=False)
    for out in range(4):
        filter_ = layer.weight.data[out] - layer.weight.data[out].mean()
        reference.weight.data[out] = layer.gain.data[out] * filter_ / filter_.norm()
    torch.testing.assert_close(layer(images), reference(images), rtol=1e-4, atol=1e-5)


def test_a_batch_of_noise_keeps_its_variance_through_vgg() -> None:
    torch.manual_seed(0)
    for each in SmallVGG(5, 16).stages(torch.randn(8, 3, 64, 64)):
        assert 0.2 < float(each.detach().square().mean().sqrt()) < 5
