"""The arithmetic that networks and stages ask for, by formula; no torch.

What is counted are multiply-adds (MACs), of one image unless it is said otherwise; a FLOP count is twice as large.
"""

from __future__ import annotations

from itertools import pairwise

from ldae.study.base import PATCH, PATCH_DIM
from ldae.study.methods import METHODS, block_macs
from ldae.study.scale import Classifier
from ldae.study.stage_specs import BaselineStage, ConvolutionalStage, DenoiserStage

VAE_MULTIPLES = (1, 2, 4, 4)  # of the convolutional tokenizer's width, level by level
INCEPTION_MACS = 5_730_000_000  # of Inception v3 at 299 pixels
VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions of its stages


def transformer_macs(
    *, tokens: int, width: int, blocks: int, in_dim: int, out_dim: int, conditioning: int, frequencies: int = 256
) -> int:
    """Multiply-adds of one image's forward pass through the Diffusion Transformer, conditioning included.

    The published figures of DiT and timm, there called FLOPs, are multiply-adds too.
    """
    time = frequencies * conditioning + conditioning**2
    modulation = conditioning * width * (6 * blocks + 2)
    return (
        blocks * block_macs(tokens, width)
        + tokens * width * (in_dim + out_dim)
        + (time + modulation if conditioning else 0)
    )


def transformer_parameters(*, width: int, blocks: int, in_dim: int, out_dim: int, conditioning: int) -> int:
    """Weights of the Diffusion Transformer; the arguments are those of `transformer_macs`."""
    block = 12 * width**2 + 9 * width + 6 * width * (conditioning + 1)
    ends = (in_dim + 1) * width + 2 * width * (conditioning + 1) + (width + 1) * out_dim
    return blocks * block + ends + (256 + 1) * conditioning + (conditioning + 1) * conditioning


def vit_macs(*, tokens: int, width: int, blocks: int, in_dim: int, classes: int) -> int:
    """Multiply-adds of one image through a Vision Transformer with a class token and a linear head.

    `tokens` counts the patches alone.
    """
    return blocks * block_macs(tokens + 1, width) + tokens * width * in_dim + width * classes


def classifier_vit_macs(*, tokens: int, width: int, blocks: int, classes: int) -> int:
    """Multiply-adds of one image through a plain encoder and a linear classifier on the mean of its tokens."""
    return blocks * block_macs(tokens, width) + tokens * width * PATCH_DIM + width * classes


def pretrain_macs(stage: DenoiserStage, image_size: int) -> int:
    """A forward pass through a row's network, without its tokenizer."""
    size, dim = stage.size, stage.tokenizer.dim
    return transformer_macs(
        tokens=(image_size // PATCH) ** 2,
        width=size.width,
        blocks=size.encoder_blocks + size.decoder_blocks,
        in_dim=PATCH_DIM if stage.network.image_input else dim,
        out_dim=PATCH_DIM if stage.network.image_output else dim,
        conditioning=round(size.width * size.conditioning),
    )


def baseline_macs(stage: BaselineStage, image_size: int) -> int:
    """What one image goes forward through with gradients; what has none counts a third."""
    tokens = (image_size // PATCH) ** 2
    return METHODS[stage.method].macs(tokens, stage.size.width, stage.size.encoder_blocks, stage.recipe)


def conv_macs(in_channels: int, out_channels: int, side: int, kernel: int = 3) -> int:
    """A convolution whose output is `side` pixels high and wide."""
    return in_channels * out_channels * kernel**2 * side**2


def residual_macs(in_channels: int, out_channels: int, side: int) -> int:
    """Two convolutions, and a third where the shortcut must change the number of channels."""
    shortcut = conv_macs(in_channels, out_channels, side, 1) if in_channels != out_channels else 0
    return conv_macs(in_channels, out_channels, side) + conv_macs(out_channels, out_channels, side) + shortcut


def autoencoder_macs(*, size: int, width: int, blocks: int, channels: int) -> tuple[int, int]:
    """Encoding and decoding with the convolutional tokenizer; the arguments are those of its `Autoencoder`."""
    widths = [width * multiple for multiple in VAE_MULTIPLES]
    last, small = widths[-1], size // 8
    middle = 2 * residual_macs(last, last, small) + 4 * conv_macs(last, last, small, 1) + 2 * small**4 * last

    def levels(widths: list[int], side: int, depth: int, *, halve: bool) -> int:
        total = 0
        for level, (before, after) in enumerate(pairwise(widths)):
            total += residual_macs(before, after, side) + (depth - 1) * residual_macs(after, after, side)
            if level < len(widths) - 2:
                side = side // 2 if halve else 2 * side
                total += conv_macs(after, after, side)
        return total

    encode = conv_macs(3, width, size) + levels([width, *widths], size, blocks, halve=True) + middle
    encode += conv_macs(last, 2 * channels, small) + conv_macs(2 * channels, 2 * channels, small, 1)
    decode = conv_macs(channels, channels, small, 1) + conv_macs(channels, last, small) + middle
    decode += levels([last, *reversed(widths)], small, blocks + 1, halve=False) + conv_macs(width, 3, size)
    return encode, decode


def discriminator_macs(size: int, width: int) -> int:
    """The patch discriminator."""
    sides = (size // 2, size // 4, size // 8, size // 8 - 1, size // 8 - 2)
    channels = (3, width, 2 * width, 4 * width, 8 * width, 1)
    return sum(conv_macs(a, b, side, 4) for (a, b), side in zip(pairwise(channels), sides, strict=True))


def vgg_macs(size: int, stages: tuple[tuple[int, int], ...]) -> int:
    """The convolutions of a VGG, stage by stage: their channels, and how many there are."""
    total, before = 0, 3
    for level, (channels, depth) in enumerate(stages):
        total += conv_macs(before, channels, size >> level) + (depth - 1) * conv_macs(channels, channels, size >> level)
        before = channels
    return total


def small_vgg_macs(size: int, width: int) -> int:
    """The study's own network of the perceptual loss."""
    return vgg_macs(size, tuple((factor * width, 1) for factor in (1, 2, 4, 8, 8)))


def small_resnet_macs(size: int, width: int) -> int:
    """The study's own judge of samples."""
    widths = (width, width, 2 * width, 4 * width, 8 * width)
    sides = (size // 2, size // 4, size // 8, size // 16)
    return conv_macs(3, width, size // 2) + sum(
        residual_macs(a, b, side) for (a, b), side in zip(pairwise(widths), sides, strict=True)
    )


def classifier_macs(architecture: str, classifier: Classifier, size: int) -> int:
    """A small classifier."""
    return {"vgg": small_vgg_macs, "resnet": small_resnet_macs}[architecture](size, classifier.width)


def tokenizer_training_macs(stage: ConvolutionalStage, vgg: Classifier | None, size: int) -> int:
    """A training step of a convolutional tokenizer, for one image and with all gradients."""
    recipe = stage.convolutional
    macs = 3 * sum(autoencoder_macs(size=size, width=recipe.width, blocks=recipe.blocks, channels=stage.dim // 4))
    if stage.perceptual:  # both images forward, one of them back
        own = small_vgg_macs(size, vgg.width) if recipe.perceptual == "builtin" and vgg else vgg_macs(size, VGG16)
        macs += 3 * own
    if stage.adversarial:  # forward and twice back to the decoder, then a step of its own on two images
        late = 1 - recipe.adversarial_start
        macs += round(9 * late * discriminator_macs(size, recipe.discriminator_width))
    return macs
