"""The methods that pretrain an encoder: the denoiser, and those that the paper compares with (Sec. 5); no torch.

`ldae.parts.methods` has a module for each of the latter, of the same name, with the networks and their losses. Costs
are multiply-adds (MACs) of one image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from ldae.study.base import PATCH_DIM, Positive
from ldae.study.recipes import Training


@dataclass(frozen=True, kw_only=True)
class MethodTraits:
    """A method that pretrains an encoder."""

    title: str
    denoises: bool = False  # whether it has a tokenizer, noise and a decoder, and can be sampled from
    has_published_weights: bool = False  # whether a row may take some instead of training


@dataclass(frozen=True, kw_only=True)
class Baseline(MethodTraits):
    """A method that the paper compares with."""

    recipe: type[Training]  # its keys in a scale file, under `baselines`
    macs: Callable[[int, int, int, Any], int]  # from tokens, width and blocks of the encoder, and the recipe
    views: int = 1  # 1: a random crop; 2: two augmented views of the image
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    all_decay: bool = False  # whether biases and norms decay, too


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


BASELINES = {
    "mae": Baseline(title="MAE", recipe=MAETraining, macs=mae_macs, has_published_weights=True),
    "moco_v3": Baseline(
        title="MoCo v3", recipe=MoCoTraining, macs=moco_macs, views=2, betas=(0.9, 0.999), all_decay=True
    ),
}
METHODS: dict[str, MethodTraits] = {
    "denoiser": MethodTraits(title="denoising (l-DAE's family)", denoises=True, has_published_weights=True),
    **BASELINES,
}
(PUBLISHED_ENCODER,) = (name for name, method in BASELINES.items() if method.has_published_weights)
