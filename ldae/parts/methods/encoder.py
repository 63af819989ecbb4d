"""The plain Vision Transformer that both baselines train: a row's encoder without its conditioning.

As in the rows there is no class token, and what is probed is the mean of the last block's tokens, without a norm: MoCo
v3 loses 7 points where a norm comes before the mean, and nothing where the mean takes the class token's place. A
published encoder keeps the class token that it was trained with among the tokens of each block, and out of the mean.
Images are normalised here, as both methods' authors do, so that whatever uses an encoder gives it images in [-1, 1].
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ldae.parts.network import grid_positions
from ldae.parts.tokenizers.patches import patchify
from ldae.study.base import PATCH, PATCH_DIM, Size

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of images in [0, 1]


def vit_blocks(num: int, *, width: int, heads: int) -> nn.Sequential:
    """Pre-norm transformer blocks, with MAE's initial weights: Xavier's, and no biases."""
    from timm.models.vision_transformer import Block  # which takes seconds to import

    norm: Any = partial(nn.LayerNorm, eps=1e-6)
    blocks = nn.Sequential(*(Block(width, heads, mlp_ratio=4, qkv_bias=True, norm_layer=norm) for _ in range(num)))
    for module in blocks.modules():
        if isinstance(module, nn.Linear):
            xavier(module)
    return blocks


def xavier(layer: nn.Linear) -> nn.Linear:
    """The layer, with Xavier's uniform weights and no bias."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Encoder(nn.Module):
    """Images (N, 3, S, S) in [-1, 1] to tokens (N, T, h)."""

    positions: Tensor  # (T, h), fixed
    mean: Tensor  # (3, 1, 1), ImageNet's, of images in [-1, 1]
    deviation: Tensor  # (3, 1, 1)

    def __init__(self, size: Size, image_size: int, *, class_token: bool = False) -> None:
        """Builds a row's encoder for images of `image_size` pixels.

        With `class_token` it is as it was published, with positions that may be another image size's.
        """
        super().__init__()
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
        self.register_buffer("mean", 2 * mean - 1, persistent=False)
        self.register_buffer("deviation", 2 * deviation, persistent=False)
        self.embed = xavier(nn.Linear(PATCH_DIM, size.width))
        self.register_buffer("positions", grid_positions(image_size // PATCH, size.width), persistent=class_token)
        self.blocks = vit_blocks(size.encoder_blocks, width=size.width, heads=size.heads)
        self.class_token = nn.Parameter(0.02 * torch.randn(size.width)) if class_token else None

    def patches(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S) in [-1, 1], normalised, as flattened patches (N, T, D)."""
        return patchify((images - self.mean) / self.deviation, PATCH)

    def embedded(self, patches: Tensor) -> Tensor:
        """Flattened patches (N, T, D) of normalised images as the first block's tokens (N, T, h)."""
        return self.embed(patches) + self.positions

    def forward(self, images: Tensor) -> Tensor:
        """The last block's tokens, those of patches alone."""
        tokens = self.embedded(self.patches(images))
        if self.class_token is None:
            return self.blocks(tokens)
        return self.blocks(torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens], dim=1))[:, 1:]
