"""A trained encoder as the weights of a plain Vision Transformer, by timm's names: an exact conversion.

Everything before the first block is affine in a patch's pixels, and so is one patch embedding: the tokenizer, its
scaling, the inverse projection of rows on images, the normalisation of MAE's and MoCo v3's images, the embedding.
Everything that the conditioning does at one time step is affine in each block: shift and scale are a LayerNorm's bias
and weight, a gate is a factor of the layer before it. Sums are computed in float64 and rounded once.
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
from ldae.study.checking import alternatives
from ldae.study.tokenizers import kinds_with


class Folded(NamedTuple):
    """A plain Vision Transformer without class token and final norm, whose representation is its tokens' mean."""

    state: dict[str, Tensor]  # float32, by timm's names
    width: int
    depth: int
    heads: int
    grid: int  # tokens along a side of the images it was trained on
    activation: str  # of its MLPs, as timm calls it


@torch.no_grad()
def fold(network: nn.Module, *, time: int, offset: int) -> Folded:
    """The encoder of a trained row, a `Denoiser`, or of a baseline, an `Encoder`, as a plain Vision Transformer.

    The conditioning is fixed to the step `time`; methods without noise have none. The last block is the one at `offset`
    from the encoder's last: +1 is the decoder's first.

    Raises:
        ValueError: for a time step or block that does not exist, and for a tokenizer that is no affine map of patches.
    """
    depth = depth_of(network, time=time, offset=offset)
    exact: Any = copy.deepcopy(network).double()
    if isinstance(network, Denoiser):
        if not network.linear_tokenizer:
            raise ValueError(
                "no patch embedding can stand for its tokenizer, which is not an affine map of patches; rows with "
                f"tokenizer.kind {alternatives(kinds_with('linear'))} can be exported, and other methods than denoising"
            )
        times = torch.tensor([network.noise.nearest(time)], device=network.noise.signal.device)
        condition = network.network.condition(times, None).double()  # without a label, as in probing
        state = _embedding(lambda x: exact.network.embed(exact.view(exact.encode(x))), exact.network.positions)
        blocks = [_fold_block(block, condition) for block in exact.network.layers[:depth]]
        heads, activation = network.network.layers[0].heads, "gelu_tanh"
    else:  # a plain Vision Transformer already, of timm's blocks
        if exact.class_token is not None:
            raise ValueError("it is a published encoder with a class token; take that from where it was published")
        state = _embedding(lambda x: exact.embed(exact.patches(x)), exact.positions)
        blocks = [block.state_dict() for block in exact.blocks[:depth]]
        heads, activation = exact.blocks[0].attn.num_heads, "gelu"
    for number, block in enumerate(blocks):
        state |= {f"blocks.{number}.{name}": tensor for name, tensor in block.items()}
    _, num_tokens, width = state["pos_embed"].shape
    rounded = {name: tensor.float().cpu().contiguous() for name, tensor in state.items()}
    return Folded(rounded, width, depth, heads, grid=round(num_tokens**0.5), activation=activation)


def depth_of(network: nn.Module, *, time: int, offset: int) -> int:
    """How many blocks a representation comes after; the arguments and errors are those of `fold`."""
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
