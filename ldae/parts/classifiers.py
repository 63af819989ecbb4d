"""Two small classifiers of the study's own images: one for perceptual differences, one that judges samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VGG_FACTORS = (1, 2, 4, 8, 8)  # channels of VGG's stages, as multiples of the first one's
RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))  # keeps the variance through a ReLU (Brock et al. 2021, eq. 4)


class StandardisedConv(nn.Module):
    """A 3 x 3 convolution whose filters have a learned length and zero mean (scaled weight standardisation).

    An activation depends on the pixels below it alone, as in VGG, where normalised activations would hide differences
    in contrast from a perceptual loss; and the network learns faster than with plain filters or group normalisation.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.centre = in_channels > 3  # filters of images keep their mean, and see brightness
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3) / math.sqrt(9 * in_channels))
        self.gain = nn.Parameter(torch.full((out_channels, 1, 1, 1), RELU_GAIN))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in, H, W) to maps (N, out, H, W)."""
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True) if self.centre else self.weight
        length = weight.square().sum((1, 2, 3), keepdim=True).add(1e-8).sqrt()
        return F.conv2d(x, self.gain * weight / length, self.bias, padding=1)


class Stages(nn.Module):
    """VGG's five stages with a 2 x 2 maximum between them; one convolution each learns more in equal time than two."""

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = [3, *(factor * width for factor in VGG_FACTORS)]
        self.stages = nn.ModuleList(
            nn.Sequential(StandardisedConv(before, after), nn.ReLU(inplace=True))
            for before, after in pairwise(channels)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N, 3, S, S) in [-1, 1] to each stage's last map (N, C, S / 2^i, S / 2^i), i = 0..4."""
        maps: list[Tensor] = []
        for stage in self.stages:
            # with the channels last these small layers take a third less time on a CPU
            x = F.max_pool2d(maps[-1], 2) if maps else images.contiguous(memory_format=torch.channels_last)
            maps.append(stage(x))
        return maps


class SmallVGG(nn.Module):
    """A narrow VGG, with `width` channels in the first stage; a perceptual loss compares the maps of its `stages`."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.stages = Stages(width)
        self.head = nn.Linear(VGG_FACTORS[-1] * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S) in [-1, 1] to logits (N, classes)."""
        return self.head(self.stages(images)[-1].mean((2, 3)))


class BasicBlock(nn.Module):
    """Two convolutions beside a skip connection (ResNet's basic block)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            # an average and then a convolution (ResNet-D), not a 1 x 1 convolution of stride 2: of such a one with the
            # channels last, the gradient on a CPU ends in a segmentation fault in torch 2.15 (8 channels, 64 x 64)
            conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.skip = nn.Sequential(nn.AvgPool2d(stride), conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in, H, W) to maps (N, out, H / stride, W / stride)."""
        return F.relu_(self.branch(x).add_(self.skip(x)))


class SmallResNet(nn.Module):
    """A small ResNet that judges samples; it shares neither layers nor normalisation with `SmallVGG`.

    What a perceptual loss has seen would flatter the samples of the tokenizer that was trained with it.
    """

    def __init__(self, classes: int, width: int) -> None:
        """`width` channels in the stem, 8 times as many in its features."""
        super().__init__()
        stem = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(width), nn.ReLU(inplace=True), BasicBlock(width, width, 1)]
        layers += [BasicBlock(factor * width, 2 * factor * width, 2) for factor in (1, 2, 4)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(8 * width, classes)

    def features(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S) in [-1, 1] to features (N, 8 width), averages over the last maps."""
        return self.layers(images.contiguous(memory_format=torch.channels_last)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S) in [-1, 1] to logits (N, classes)."""
        return self.head(self.features(images))


CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {"vgg": SmallVGG, "resnet": SmallResNet}
