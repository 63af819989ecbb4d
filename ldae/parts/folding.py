"""A trained encoder as the weights of a plain Vision Transformer, in timm's names; what is fixed is folded in, exactly.

Everything before the first block is affine in a patch's pixels, and so is one patch embedding: the tokenizer, its
scaling, the inverse projection of rows on images, the normalisation of MAE's and MoCo v3's images, the embedding.
Everything that the conditioning does at one time step is affine in each block: shift and scale are a LayerNorm's bias
and weight, a gate is a factor of the layer before it. Sums are made in float64 and rounded once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ldae.parts.denoiser import Denoiser
from ldae.parts.methods.encoder import Encoder
from ldae.parts.network import Block
from ldae.parts.tokenizers.patches import unpatchify
from ldae.study.base import NUM_TIMES, PATCH, PATCH_DIM
from ldae.study.tokenizers import kinds_with
from ldae.study.words import alternatives


class Folded(NamedTuple):
    """A plain Vision Transformer without class token and final norm, whose representation is its tokens' mean."""

    state: dict[str, Tensor]  # float32, by timm's names
    width: int
    depth: int
    heads: int
    grid: int  # tokens along a side of the images it was trained on
    activation: str  # of its MLPs, as timm calls it


def fold(network: nn.Module, *, time: int, offset: int) -> Folded:
    """The encoder of a trained row or baseline, as a plain Vision Transformer.

    Args:
        network: a `Denoiser`, or the `Encoder` of MAE or MoCo v3.
        time: the step that the conditioning is fixed to; methods without noise have none.
        offset: of the last block kept, from the encoder's last: +1 is the decoder's first.

    Raises:
        ValueError: for a time step or block that there is not, and for a tokenizer that is no affine map of patches.
    """
    depth = depth_of(network, time=time, offset=offset)
    with torch.no_grad():
        if isinstance(network, Denoiser):
            return _fold_denoiser(network, time, depth)
        assert isinstance(network, Encoder)
        return _fold_encoder(network, depth)


def depth_of(network: nn.Module, *, time: int, offset: int) -> int:
    """How many blocks a representation comes after; the arguments and errors are those of `fold`.

    Raises:
        ValueError: for a time or a block that the network does not have.
    """
    if not 0 <= time < NUM_TIMES:
        raise ValueError(f"time: {time} is not a time step; there are 0 to {NUM_TIMES - 1}")
    if isinstance(network, Denoiser):
        encoder_blocks, blocks = network.network.encoder_blocks, len(network.network.blocks)
    else:
        assert isinstance(network, Encoder)
        encoder_blocks = blocks = len(network.blocks)
    if not 1 <= encoder_blocks + offset <= blocks:
        raise ValueError(
            f"offset: {offset:+d} is not a block; counted from the encoder's last, there are "
            f"{1 - encoder_blocks:+d} to {blocks - encoder_blocks:+d}"
        )
    return encoder_blocks + offset


def _fold_denoiser(denoiser: Denoiser, time: int, depth: int) -> Folded:
    if not denoiser.linear_tokenizer:
        raise ValueError(
            "no patch embedding can stand for its tokenizer, which is not an affine map of patches; rows with "
            f"tokenizer.kind {alternatives(kinds_with('linear'))} can be exported, and other methods than denoising"
        )
    times = torch.tensor([denoiser.noise.nearest(time)], device=denoiser.noise.signal.device)
    condition = denoiser.network.condition(times, None).double()  # without a label, as in probing
    exact = copy.deepcopy(denoiser).double()

    def embed(images: Tensor) -> Tensor:
        return exact.network.embed(exact.view(exact.encode(images)))

    state = _embedding(embed, exact.network.positions)
    for number, block in enumerate(exact.network.layers[:depth]):
        state |= {f"blocks.{number}.{name}": tensor for name, tensor in _fold_block(block, condition).items()}
    return Folded(
        _rounded(state),
        width=len(state["patch_embed.proj.bias"]),
        depth=depth,
        heads=denoiser.network.layers[0].heads,
        grid=denoiser.grid,
        activation="gelu_tanh",
    )


def _fold_block(block: Block, condition: Tensor) -> dict[str, Tensor]:
    """A block's weights under the activated conditioning (1, c), by the names of timm's block."""
    shift1, scale1, gate1, shift2, scale2, gate2 = block.modulation(condition)[0].chunk(6)  # (h,) each
    return {
        "norm1.weight": 1 + scale1,
        "norm1.bias": shift1,
        "attn.qkv.weight": block.qkv.weight,
        "attn.qkv.bias": block.qkv.bias,
        "attn.proj.weight": gate1[:, None] * block.proj.weight,
        "attn.proj.bias": gate1 * block.proj.bias,
        "norm2.weight": 1 + scale2,
        "norm2.bias": shift2,
        "mlp.fc1.weight": block.fc1.weight,
        "mlp.fc1.bias": block.fc1.bias,
        "mlp.fc2.weight": gate2[:, None] * block.fc2.weight,
        "mlp.fc2.bias": gate2 * block.fc2.bias,
    }


def _fold_encoder(encoder: Encoder, depth: int) -> Folded:
    """A baseline's encoder is a plain Vision Transformer already, of timm's blocks."""
    if encoder.class_token is not None:
        raise ValueError("it is a published encoder with a class token; take that from where it was published")
    exact = copy.deepcopy(encoder).double()
    state = _embedding(lambda images: exact.embed(exact.patches(images)), exact.positions)
    kept: Any = exact.blocks[:depth]
    state |= {f"blocks.{name}": tensor for name, tensor in kept.state_dict().items()}
    return Folded(
        _rounded(state),
        width=len(state["patch_embed.proj.bias"]),
        depth=depth,
        heads=kept[0].attn.num_heads,
        grid=round(len(exact.positions) ** 0.5),
        activation="gelu",
    )


def _embedding(embed: Callable[[Tensor], Tensor], positions: Tensor) -> dict[str, Tensor]:
    """The patch embedding that an affine map of images of one patch (N, 3, 16, 16) to tokens (N, 1, h) amounts to.

    Its bias is the map's value at the origin, the columns of its matrix are what the unit vectors add to that.
    """
    origin_and_units = torch.cat([positions.new_zeros(1, PATCH_DIM), torch.eye(PATCH_DIM).to(positions)])
    values = embed(unpatchify(origin_and_units[:, None], PATCH))[:, 0]  # (1 + D, h)
    bias = values[0]
    return {
        "patch_embed.proj.weight": (values[1:] - bias).T.reshape(-1, 3, PATCH, PATCH),
        "patch_embed.proj.bias": bias,
        "pos_embed": positions[None],
    }


def _rounded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}
