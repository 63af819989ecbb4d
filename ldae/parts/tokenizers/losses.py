"""The losses of the convolutional tokenizers: KL, a perceptual distance and a patch discriminator, as in LDM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldae.parts.published import check_shapes, shapes_of
from ldae.runtime import ranks

VGG_CHANNELS = (64, 128, 256, 512, 512)  # of relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3
# ImageNet's mean and standard deviation for images in [-1, 1], as LPIPS has them
LPIPS_SHIFT, LPIPS_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """The divergence (N,), in nats, of diagonal Gaussians (N, ...) from the standard normal (VAE, App. B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)


class Perceptual(nn.Module):
    """The LPIPS distance over a frozen network's activations (Zhang et al. 2018, eq. 1; weights on the squares)."""

    def __init__(self, features: nn.Module, weights: Iterable[Tensor] = ()) -> None:
        """Freezes `features`, images (N, 3, S, S) in [-1, 1] to a list of activation maps (N, C, H, W).

        The weights (C,) or (1, C, 1, 1) of each map say how much a channel counts; without any, all count alike.
        """
        super().__init__()
        self.features = features.requires_grad_(False)
        self.weights = nn.ParameterList(weight.view(-1, 1, 1) for weight in weights).requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The distances (N,) between two batches of images (N, 3, S, S) in [-1, 1]."""
        maps = [(unit(a) - unit(b)).square() for a, b in zip(self.features(first), self.features(second), strict=True)]
        if self.weights:
            maps = [squares * weight for squares, weight in zip(maps, self.weights, strict=True)]
        return torch.stack([squares.sum(1).mean((1, 2)) for squares in maps]).sum(0)


def unit(activations: Tensor) -> Tensor:
    """Activations (N, C, H, W), of unit length over the channels."""
    # this norm's gradient at zero is zero, where no channel responds; that of a root of a sum of squares is not finite
    return activations / (torch.linalg.vector_norm(activations, dim=1, keepdim=True) + 1e-10)


def vgg16_features(state: Mapping[str, Tensor]) -> nn.Module:
    """VGG16's relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3, which LPIPS compares, of images in [-1, 1].

    The state holds ImageNet weights as timm or torchvision name them, `features.N.weight`; those of the classifier are
    ignored, and weights of another network are a `ValueError`.
    """
    import timm  # which takes seconds, as does torchvision
    from torchvision.transforms.v2 import Normalize

    with torch.device("meta"):  # which allocates neither these layers nor the classifier's 480 MB
        layers = timm.create_model("vgg16", pretrained=False, features_only=True, out_indices=tuple(range(5)))
    published = {name: name.replace("features_", "features.") for name in layers.state_dict()}
    stored = {name: tensor.float() for name, tensor in state.items() if name in published.values()}
    shapes = {published[name]: shape for name, shape in shapes_of(layers.state_dict()).items()}
    check_shapes(stored, shapes, "VGG16")
    layers.load_state_dict({name: stored[theirs] for name, theirs in published.items()}, assign=True)
    return nn.Sequential(Normalize(LPIPS_SHIFT, LPIPS_SCALE), layers).eval().requires_grad_(False)


def lpips_weights(state: Mapping[str, Tensor]) -> list[Tensor]:
    """LPIPS' linear layers for VGG16, each (1, C, 1, 1), by its authors' names; other weights are a `ValueError`."""
    shapes = {f"lin{layer}.model.1.weight": (1, channels, 1, 1) for layer, channels in enumerate(VGG_CHANNELS)}
    check_shapes(state, shapes, "LPIPS")
    return [state[name].float() for name in shapes]


class PatchDiscriminator(nn.Module):
    """The PatchGAN of pix2pix with three layers, as LDM trains it: every logit judges 70 x 70 pixels."""

    def __init__(self, width: int = 64) -> None:
        """`width` channels in the first layer, 8 times as many in the last hidden one."""
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for factor, stride in ((2, 2), (4, 2), (8, 1)):
            conv = nn.Conv2d(width * factor // 2, width * factor, 4, stride=stride, padding=1, bias=False)
            layers += [conv, ranks.BatchNorm(width * factor), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(8 * width, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.02)
            elif isinstance(layer, ranks.BatchNorm):
                nn.init.normal_(layer.weight, mean=1.0, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S), S >= 32, to logits (N, 1, S / 8 - 2, S / 8 - 2), high where they look real."""
        return self.layers(images)


def hinge_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """What the discriminator minimises: zero once real logits are above 1 and fake ones below -1."""
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())


def generator_loss(fake_logits: Tensor) -> Tensor:
    """What the decoder minimises against the discriminator."""
    return -fake_logits.mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """The factor that gives both scalar losses equal gradients at the decoder's last layer (VQGAN, eq. 7).

    It is |grad reconstruction| / (|grad adversarial| + 1e-4), at most 10^4, without a gradient; constants from LDM. The
    graph of the losses stays.
    """
    reconstruction_norm, adversarial_norm = (
        ranks.all_reduce_mean(torch.autograd.grad(loss, last_layer, retain_graph=True)[0]).norm()
        for loss in (reconstruction, adversarial)
    )
    return (reconstruction_norm / (adversarial_norm + 1e-4)).clamp(0, 1e4).detach()
