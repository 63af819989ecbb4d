"""The losses of the convolutional tokenizers, against their formulas written with loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldae.parts.classifiers import SmallVGG
from ldae.parts.tokenizers.losses import (
    PatchDiscriminator,
    Perceptual,
    adaptive_weight,
    generator_loss,
    hinge_loss,
    kl_divergence,
    lpips_weights,
    vgg16_features,
)
from ldae.runtime.ranks import BatchNorm

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)  # channels; 0 is a pooling


class TwoMaps(nn.Module):
    """Activations of two sizes, some of which are zero in every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3, stride=2)

    def forward(self, images: Tensor) -> list[Tensor]:
        first = F.relu(self.first(images) - 0.3)
        return [first, F.relu(self.second(first))]


@pytest.fixture
def maps() -> TwoMaps:
    torch.manual_seed(0)
    return TwoMaps().double()


def image_pair(num: int = 3, size: int = 12) -> tuple[Tensor, Tensor]:
    first, second = torch.rand(2, num, 3, size, size, generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    return first, second


@pytest.fixture(scope="module")
def vgg_weights() -> dict[str, Tensor]:
    """Random weights in torchvision's and timm's names, of the layers and the ignored classifier's last one."""
    generator = torch.Generator().manual_seed(2)
    weights, before, index = {"classifier.6.weight": torch.zeros(2, 2)}, 3, 0
    for channels in VGG16:
        if channels:
            weight = torch.randn(channels, before, 3, 3, generator=generator) * math.sqrt(2 / (9 * before))
            weights[f"features.{index}.weight"] = weight.half()
            weights[f"features.{index}.bias"] = torch.randn(channels, generator=generator).mul(0.1).half()
            before = channels
        index += 2 if channels else 1
    return weights


def test_kl_is_that_of_each_gaussian_from_the_standard_normal() -> None:
    mean, logvar = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    for n, found in enumerate(kl_divergence(mean, logvar)):
        pairs = zip(mean[n].flatten().tolist(), logvar[n].flatten().tolist(), strict=True)
        expected = sum(0.5 * (m * m + math.exp(v) - 1 - v) for m, v in pairs)
        assert float(found) == pytest.approx(expected)
    normals = torch.distributions.Normal(mean, (logvar / 2).exp())
    known = torch.distributions.kl_divergence(normals, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(kl_divergence(mean, logvar), known.sum((1, 2, 3)))
    assert kl_divergence(torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)).tolist() == [0, 0]


@pytest.mark.parametrize("weighted", [False, True])
def test_the_perceptual_distance_is_lpips_written_with_loops(maps: TwoMaps, weighted: bool) -> None:
    first, second = image_pair(2)
    weights = [np.linspace(0, 2, 4), np.linspace(1, 0, 6)] if weighted else None
    expected = np.zeros(2)
    for layer, (a, b) in enumerate(zip(maps(first), maps(second), strict=True)):
        a, b = a.detach().numpy(), b.detach().numpy()
        for n in range(2):
            for y in range(a.shape[2]):
                for x in range(a.shape[3]):
                    one, two = a[n, :, y, x], b[n, :, y, x]
                    one = one / (math.sqrt((one**2).sum()) + 1e-10)
                    two = two / (math.sqrt((two**2).sum()) + 1e-10)
                    for c in range(len(one)):
                        weight = 1 if weights is None else weights[layer][c]
                        expected[n] += weight * (one[c] - two[c]) ** 2 / (a.shape[2] * a.shape[3])
    given = [] if weights is None else [torch.from_numpy(weights[0]), torch.from_numpy(weights[1])[None, :, None, None]]
    np.testing.assert_allclose(Perceptual(maps, given)(first, second), expected)


def test_weights_of_one_are_the_unweighted_distance(maps: TwoMaps) -> None:
    first, second = image_pair()
    ones = [torch.ones(1, 4, 1, 1).double(), torch.ones(6).double()]
    torch.testing.assert_close(Perceptual(maps, ones)(first, second), Perceptual(maps)(first, second))


def test_the_perceptual_distance_is_a_distance(maps: TwoMaps) -> None:
    first, second = image_pair()
    distance = Perceptual(maps)
    assert distance(first, first).tolist() == [0, 0, 0]
    assert (distance(first, second) > 0).all()
    torch.testing.assert_close(distance(first, second), distance(second, first))
    assert (distance(first, first + 0.1 * second) < distance(first, second)).all()


def test_the_perceptual_gradient_reaches_images_and_no_weight(maps: TwoMaps) -> None:
    first, second = image_pair()
    first.requires_grad_()
    distance = Perceptual(maps, [torch.ones(4).double(), torch.ones(6).double()])
    assert (maps(second)[0].sum(1) == 0).any()  # where the root of a sum of squares has no finite gradient
    distance(first, second).sum().backward()
    assert first.grad is not None
    assert first.grad.isfinite().all()
    assert first.grad.abs().flatten(1).sum(1).min() > 0
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    assert all(parameter.grad is None for parameter in distance.parameters())


def test_the_distance_grows_with_noise_over_a_small_vgg_too() -> None:
    torch.manual_seed(0)
    first, noise = (each.float() for each in image_pair(4, size=64))
    distance = Perceptual(SmallVGG(5, 4).stages)
    distances = torch.stack([distance(first, first + share * noise) for share in (0.0, 0.05, 0.1, 0.3)])
    assert (distances[0] == 0).all()
    assert (distances.diff(dim=0) > 0).all()


def test_lpips_weights_of_another_network_are_refused(maps: TwoMaps) -> None:
    with pytest.raises(ValueError, match="shorter"):
        Perceptual(maps, [torch.ones(4).double()])(*image_pair())


def test_vgg16_equals_its_layers_run_by_hand(vgg_weights: dict[str, Tensor]) -> None:
    network = vgg16_features(vgg_weights)
    images = image_pair(2, size=32)[0].float()
    x = (images - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor([0.458, 0.448, 0.450])[
        :, None, None
    ]
    expected, index = [], 0
    for channels, following in zip(VGG16, (*VGG16[1:], 0), strict=True):
        if not channels:
            x, index = F.max_pool2d(x, 2), index + 1
            continue
        weight, bias = (vgg_weights[f"features.{index}.{kind}"].float() for kind in ("weight", "bias"))
        x, index = F.relu(F.conv2d(x, weight, bias, padding=1)), index + 2
        if not following:
            expected.append(x)
    found = network(images)
    assert [tuple(each.shape[1:]) for each in found] == [
        (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)
    ]  # fmt: skip
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_weights_of_another_network_are_refused_in_a_line(vgg_weights: dict[str, Tensor]) -> None:
    wrong = {**vgg_weights, "features.28.bias": torch.zeros(7)}
    with pytest.raises(ValueError, match=r"VGG16: features\.28\.bias is \(7,\), expected \(512,\)") as refusal:
        vgg16_features(wrong)
    assert "\n" not in str(refusal.value)
    small = {"features.0.weight": vgg_weights["features.0.weight"]}
    with pytest.raises(ValueError, match=r"features\.0\.bias is absent, expected \(64,\)"):
        vgg16_features(small)


def test_lpips_weights_have_their_published_names() -> None:
    channels = (64, 128, 256, 512, 512)
    stored = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(channels)}
    for ours, theirs in zip(lpips_weights(stored), stored.values(), strict=True):
        assert torch.equal(ours, theirs)
    stored["lin4.model.1.weight"] = torch.rand(1, 256, 1, 1)
    with pytest.raises(ValueError, match=r"lin4\.model\.1\.weight is \(1, 256, 1, 1\), expected \(1, 512, 1, 1\)"):
        lpips_weights(stored)


@pytest.mark.parametrize(("size", "logits"), [(32, 2), (64, 6), (256, 30)])
def test_the_discriminator_judges_patches(size: int, logits: int) -> None:
    assert PatchDiscriminator(4)(torch.zeros(2, 3, size, size)).shape == (2, 1, logits, logits)


def test_a_logit_depends_on_70_pixels_and_no_more() -> None:
    network = PatchDiscriminator(4).double().eval()
    image = torch.rand(1, 3, 128, 128).double().requires_grad_()
    network(image)[0, 0, 7, 7].backward()
    assert image.grad is not None
    reached = image.grad[0].abs().sum(0) > 0
    assert (int(reached.any(0).sum()), int(reached.any(1).sum())) == (70, 70)


def test_the_discriminator_has_pix2pixs_layers_and_initial_values() -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator(64)
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in network.modules() if isinstance(module, BatchNorm)]
    described = [(conv.in_channels, conv.out_channels, conv.stride[0], conv.bias is not None) for conv in convs]
    assert described == [
        (3, 64, 2, True),
        (64, 128, 2, False),
        (128, 256, 2, False),
        (256, 512, 1, False),
        (512, 1, 1, True),
    ]
    for conv in convs:
        assert float(conv.weight.data.std()) == pytest.approx(0.02, rel=0.05)
        assert abs(float(conv.weight.data.mean())) < 1e-3
    scales = torch.cat([norm.weight.data for norm in norms])
    assert float(scales.mean()) == pytest.approx(1, abs=0.003)
    assert float(scales.std()) == pytest.approx(0.02, rel=0.15)
    assert all(not norm.bias.any() for norm in norms)


def test_the_adversarial_losses_are_their_formulas() -> None:
    real, fake = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    shortfall = [max(0.0, 1 - r) for r in real.flatten().tolist()], [max(0.0, 1 + f) for f in fake.flatten().tolist()]
    assert float(hinge_loss(real, fake)) == pytest.approx(0.5 * (np.mean(shortfall[0]) + np.mean(shortfall[1])))
    assert float(generator_loss(fake)) == pytest.approx(-np.mean(fake.flatten().tolist()))


def test_the_hinge_is_zero_once_both_margins_are_met() -> None:
    assert float(hinge_loss(torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -9.0]))) == 0
    assert float(hinge_loss(torch.tensor([0.0]), torch.tensor([-1.0]))) == 0.5


def test_the_adaptive_weight_is_the_ratio_of_gradients_at_the_last_layer() -> None:
    weight = nn.Parameter(torch.tensor([2.0, -1.0]))
    latent = torch.tensor([3.0, 4.0])
    pixel = (weight * latent).sum()  # 2 * 3 - 4 = 2
    reconstruction, adversarial = (pixel - 7) ** 2, -0.3 * pixel
    # d/dw of the first is 2 (2 - 7) (3, 4), of length 50; of the second -0.3 (3, 4), of length 1.5
    found = adaptive_weight(reconstruction, adversarial, weight)
    assert float(found) == pytest.approx(50 / (1.5 + 1e-4))
    assert not found.requires_grad
    (reconstruction + found * adversarial).backward()  # the graph is still there, and nothing was accumulated
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, (-10 - 0.3 * found) * latent)


def test_the_adaptive_weight_is_bounded() -> None:
    weight = nn.Parameter(torch.ones(2))
    assert float(adaptive_weight((100 * weight).sum(), (0 * weight).sum(), weight)) == 1e4
