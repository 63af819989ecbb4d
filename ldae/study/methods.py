"""The methods that the paper compares with (Sec. 5): recipe, cost and how each is trained; no torch.

`ldae.parts.methods` has a module of the same name with the networks and their losses. What is counted are multiply-adds
(MACs) of one image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from ldae.study.base import PATCH_DIM, Positive
from ldae.study.recipes import Training


@dataclass(frozen=True)
class Method:
    """A method that pretrains an encoder without being a denoiser."""

    title: str
    recipe: type[Training]  # its keys in a scale file, under `baselines`
    macs: Callable[[int, int, int, Any], int]  # of tokens, width and blocks of the encoder, and of the recipe
    views: int = 1  # 1: a random crop; 2: two augmented views of the image
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    all_decay: bool = False  # whether biases and norms decay, too
    has_published_weights: bool = False  # whether a row may take some instead of training


class MAETraining(Training):
    """The recipe of MAE (He et al., 2022), scaled to the budget."""

    decoder_width: Annotated[int, Field(ge=8, multiple_of=4)] = 512
    decoder_heads: Positive = 16
    decoder_blocks: Positive = 8
    weight_decay: Annotated[float, Field(ge=0)] = 0.05


class MoCoTraining(Training):
    """The recipe of MoCo v3 (Chen, Xie & He, 2021), scaled to the budget."""

    hidden: Positive = 4096  # width of the projector and predictor
    out: Positive = 256
    weight_decay: Annotated[float, Field(ge=0)] = 0.1


def block_macs(tokens: int, width: int) -> int:
    """One transformer block: qkv, attention, projection and an MLP of ratio 4."""
    return 12 * tokens * width**2 + 2 * tokens**2 * width


def mae_macs(tokens: int, width: int, blocks: int, recipe: MAETraining) -> int:
    """MAE: a quarter of the tokens through the encoder, all of them through the decoder."""
    visible = max(1, tokens // 4)
    return (
        blocks * block_macs(visible, width)
        + tokens * width * PATCH_DIM
        + visible * width * recipe.decoder_width
        + recipe.decoder_blocks * block_macs(tokens, recipe.decoder_width)
        + tokens * recipe.decoder_width * PATCH_DIM
    )


def moco_macs(tokens: int, width: int, blocks: int, recipe: MoCoTraining) -> int:
    """MoCo v3: two views with gradients, and two without, which cost a third."""
    hidden, out = recipe.hidden, recipe.out
    encoder = blocks * block_macs(tokens, width) + tokens * width * PATCH_DIM
    projector = width * hidden + hidden * hidden + hidden * out
    predictor = out * hidden + hidden * out
    return 2 * (encoder + projector + predictor) + round(2 / 3 * (encoder + projector))


METHODS = {
    "mae": Method("MAE", MAETraining, mae_macs, has_published_weights=True),
    "moco_v3": Method("MoCo v3", MoCoTraining, moco_macs, views=2, betas=(0.9, 0.999), all_decay=True),
}
