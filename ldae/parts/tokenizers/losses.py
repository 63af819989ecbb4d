"""The losses of the convolutional tokenizers: KL, a perceptual distance and a patch discriminator, as in LDM."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldae.runtime import ranks
from ldae.runtime.weights import read_weights

VGG_CHANNELS = (64, 128, 256, 512, 512)  # of relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3
LPIPS_SHIFT = (
    -0.030,
    -0.088,
    -0.188,
)  # ImageNet's mean and standard deviation for images in [-1, 1], as LPIPS has them
LPIPS_SCALE = (0.458, 0.448, 0.450)


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """The divergence (N,), in nats, of diagonal Gaussians (N, ...) from the standard normal (VAE, App. B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)


class Perceptual(nn.Module):
    """The LPIPS distance over a frozen network's activations (Zhang et al. 2018, eq. 1; weights on the squares)."""

    def __init__(self, features: nn.Module, weights: list[Tensor] | None) -> None:
        """Freezes `features`.

        Args:
            features: images (N, 3, S, S) in [-1, 1] to a list of activation maps (N, C, H, W).
            weights: how much each channel counts, nonnegative, (C,) or (1, C, 1, 1) for each map; None for one each.

        Raises:
            ValueError: for negative weights, which measure no distance.
        """
        super().__init__()
        self.features = features.requires_grad_(False)
        self.num_weights = 0 if weights is None else len(weights)
        for index, weight in enumerate(weights or []):
            if weight.min() < 0:
                raise ValueError(f"LPIPS weights of layer {index} are negative: no distance")
            self.register_buffer(f"weight{index}", weight.detach().view(-1, 1, 1), persistent=False)
        self.train()

    def train(self, mode: bool = True) -> Perceptual:
        """Stays in evaluation mode: a module that holds it may be trained."""
        return super().train(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The distances (N,) between two batches of images (N, 3, S, S) in [-1, 1]."""
        maps = list(zip(self.features(first), self.features(second), strict=True))
        weights: list[Tensor | None] = [self.get_buffer(f"weight{index}") for index in range(self.num_weights)]
        distances = []
        for (a, b), weight in zip(maps, weights or [None] * len(maps), strict=True):
            squares = (unit(a) - unit(b)).square()  # (N, C, H, W)
            distances.append((squares if weight is None else squares * weight).sum(1).mean((1, 2)))
        return torch.stack(distances).sum(0)


def unit(activations: Tensor) -> Tensor:
    """Activations (N, C, H, W), of unit length over the channels."""
    # this norm's gradient at zero is zero, where no channel responds; that of a root of a sum of squares is not finite
    return activations / (torch.linalg.vector_norm(activations, dim=1, keepdim=True) + 1e-10)


class ScaledVGG(nn.Module):
    """VGG16's activations for images in [-1, 1]."""

    shift: Tensor
    scale: Tensor

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("shift", torch.tensor(LPIPS_SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(LPIPS_SCALE).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N, 3, S, S) to maps (N, C, H, W) of 64, 128, 256, 512, 512 channels, each half as high and wide."""
        return self.layers((images - self.shift) / self.scale)


def vgg16_features(path: Path, sha256: str) -> nn.Module:
    """VGG16's relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3, which LPIPS compares.

    Args:
        path: ImageNet weights as timm or torchvision name them, `features.N.weight`; those of the classifier are
            ignored. `.safetensors`, or a file of `torch.save`.
        sha256: of the file, in hexadecimal.

    Returns:
        A `ScaledVGG` in float32.

    Raises:
        FileNotFoundError, ValueError: as `read_weights`, and for weights of another network.
    """
    import timm

    stored = read_weights(path, sha256)
    with torch.device("meta"):  # which allocates neither these layers nor the classifier's 480 MB
        layers = timm.create_model("vgg16", pretrained=False, features_only=True, out_indices=tuple(range(5)))
    weights = {}
    for name, empty in layers.state_dict().items():
        key = name.replace("features_", "features.")
        shape = tuple(stored[key].shape) if key in stored else "nothing"
        if shape != tuple(empty.shape):
            raise ValueError(f"{path}: is not VGG16's weights: {key} is {shape}, expected {tuple(empty.shape)}")
        weights[name] = stored[key].float()
    layers.load_state_dict(weights, assign=True)
    return ScaledVGG(layers).eval().requires_grad_(False)


def lpips_weights(path: Path, sha256: str) -> list[Tensor]:
    """LPIPS' linear layers for VGG16, each (1, C, 1, 1), from the file that LPIPS' authors distribute.

    Args:
        path: tensors named `lin0.model.1.weight` to `lin4.model.1.weight`; `.safetensors`, or a file of `torch.save`.
        sha256: of the file, in hexadecimal.

    Raises:
        FileNotFoundError, ValueError: as `read_weights`, and for other weights than LPIPS'.
    """
    stored = read_weights(path, sha256)
    weights = []
    for index, channels in enumerate(VGG_CHANNELS):
        key = f"lin{index}.model.1.weight"
        shape = tuple(stored[key].shape) if key in stored else "nothing"
        if shape != (1, channels, 1, 1):
            raise ValueError(f"{path}: is not LPIPS' weights: {key} is {shape}, expected {(1, channels, 1, 1)}")
        weights.append(stored[key].float())
    return weights


class PatchDiscriminator(nn.Module):
    """The PatchGAN of pix2pix with three layers, as LDM trains it: every logit judges 70 x 70 pixels."""

    def __init__(self, width: int = 64) -> None:
        """Of `width` channels in the first layer, 8 times as many in the last hidden one."""
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


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: nn.Parameter) -> Tensor:
    """The factor that gives both losses equal gradients at the decoder's last layer (VQGAN, eq. 7).

    Args:
        reconstruction, adversarial: scalar losses; their graph is kept.
        last_layer: the weight of the decoder's last convolution.

    Returns:
        |grad reconstruction| / (|grad adversarial| + 1e-4), at most 10^4, without a gradient; constants from LDM.
    """
    wanted, given = (
        ranks.all_reduce_mean(torch.autograd.grad(loss, last_layer, retain_graph=True)[0]).norm()
        for loss in (reconstruction, adversarial)
    )
    return (wanted / (given + 1e-4)).clamp(0, 1e4).detach()
