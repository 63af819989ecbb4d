"""The names and layouts of published weights, mapped on this project's network."""

from __future__ import annotations

import re

import torch
from torch import Tensor
from torch.nn import functional as F

from ldae.parts.network import TIME_FREQUENCIES, grid_positions
from ldae.study.base import PATCH
from ldae.study.spec import PublishedWeights

Shapes = dict[str, tuple[int, ...]]
MAE_DECODER = ("decoder_", "mask_token")  # what pretraining alone uses

# facebookresearch/DiT's names, in order of matching. Its blocks are the encoder's and decoder's in one list.
DIT_NAMES = (
    (r"x_embedder\.proj\.", "embed."),
    (r"t_embedder\.mlp\.", "time."),
    (r"y_embedder\.embedding_table\.", "label."),
    (r"adaLN_modulation\.1\.", "modulation."),
    (r"attn\.", ""),
    (r"mlp\.", ""),
    (r"final_layer\.modulation\.", "head_modulation."),
    (r"final_layer\.linear\.", "head."),
)


def from_dit(state: dict[str, Tensor], *, patch: int) -> dict[str, Tensor]:
    """A published DiT's state as one for `Transformer` with full-width conditioning and 2 * C output channels.

    Its position table is fixed and equal to ours, so it is left out. Its patch embedding is a convolution, whose kernel
    flattens to our order (channel, y, x); its output is ordered (y, x, channel) and is reordered likewise.
    """
    mapped = {}
    for name, tensor in state.items():
        if name == "pos_embed":
            continue
        for pattern, ours in DIT_NAMES:
            name = re.sub(pattern, ours, name)
        if name == "embed.weight":
            tensor = tensor.flatten(1)
        elif name in ("head.weight", "head.bias"):
            pixels = patch * patch
            tensor = tensor.unflatten(0, (pixels, -1)).transpose(0, 1).flatten(0, 1)
        mapped[name] = tensor
    return mapped


def dit_shapes(about: PublishedWeights, *, channels: int, patch: int, grid: int) -> Shapes:
    """What a DiT consists of: `channels` of the latent map, in patches of `patch` x `patch`, `grid` of them a side."""
    h, points = about.width, channels * patch**2
    shapes: Shapes = {"pos_embed": (1, grid**2, h), "x_embedder.proj.weight": (h, channels, patch, patch)}
    shapes |= {"t_embedder.mlp.0.weight": (h, TIME_FREQUENCIES), "t_embedder.mlp.2.weight": (h, h)}
    for number in range(about.blocks):
        block = f"blocks.{number}."
        shapes |= {f"{block}{name}.weight": size for name, size in block_shapes(h).items()}
        shapes[f"{block}adaLN_modulation.1.weight"] = (6 * h, h)
    shapes |= {"final_layer.linear.weight": (2 * points, h), "final_layer.adaLN_modulation.1.weight": (2 * h, h)}
    return with_biases(shapes) | {"y_embedder.embedding_table.weight": (about.classes + 1, h)}


def mae_shapes(about: PublishedWeights, *, tokens: int) -> Shapes:
    """What an encoder that MAE has trained on images of so many tokens consists of."""
    h = about.width
    shapes: Shapes = {"cls_token": (1, 1, h), "pos_embed": (1, 1 + tokens, h)}
    shapes["patch_embed.proj.weight"] = (h, 3, PATCH, PATCH)
    for number in range(about.blocks):
        sizes: Shapes = {"norm1": (h,), "norm2": (h,)} | block_shapes(h)
        shapes |= {f"blocks.{number}.{name}.weight": size for name, size in sizes.items()}
    return with_biases(shapes | {"norm.weight": (h,)})


def block_shapes(h: int) -> Shapes:
    """The matrices of a block of width h."""
    return {"attn.qkv": (3 * h, h), "attn.proj": (h, h), "mlp.fc1": (4 * h, h), "mlp.fc2": (h, 4 * h)}


def with_biases(shapes: Shapes) -> Shapes:
    """The same, each weight followed by its bias."""
    found: Shapes = {}
    for name, size in shapes.items():
        found[name] = size
        if name.endswith(".weight"):
            found[name.removesuffix("weight") + "bias"] = size[:1]
    return found


def check(state: dict[str, Tensor], shapes: Shapes, what: str) -> None:
    """Raises a `ValueError` for a state of other weights than these, which names the first; `what` they belong to."""
    for name in [*shapes, *sorted(state.keys() - shapes.keys())]:
        found = tuple(state[name].shape) if name in state else "absent"
        wanted = shapes.get(name, "nothing of this name")
        if found != wanted:
            raise ValueError(f"not the weights of {what}: {name} is {found}, expected {wanted}")


def denoiser_weights(
    state: dict[str, Tensor], about: PublishedWeights, *, dim: int, patch: int, grid: int
) -> dict[str, Tensor]:
    """A published DiT's weights as those of a row's network, which predicts the noise alone and no variance.

    Args:
        state: what the file holds, of any float type.
        about: the network's size.
        dim: d, of a token.
        patch: of the latent map, that a token covers.
        grid: tokens on a side of the data set's images.

    Raises:
        ValueError: for weights of another size, or of images of another size.
    """
    state = {name: tensor.float() for name, tensor in state.items()}
    positions = state.get("pos_embed", torch.empty(0))
    if positions.dim() == 3 and positions.shape[1] != grid**2 and (side := round(positions.shape[1] ** 0.5)) > 0:
        raise ValueError(
            f"pos_embed has {positions.shape[1]} tokens, those of images of {PATCH * side} pixels; the data set's have "
            f"{PATCH * grid}, so give dataset.size: {PATCH * side}"
        )
    what = f"a DiT of width {about.width} and {about.blocks} blocks"
    check(state, dit_shapes(about, channels=dim // patch**2, patch=patch, grid=grid), what)
    if not torch.allclose(positions[0], grid_positions(grid, about.width), atol=1e-4):
        raise ValueError(f"not the weights of {what}: pos_embed is not its fixed table of sines and cosines")
    mapped = from_dit(state, patch=patch)
    for name in ("head.weight", "head.bias"):
        mapped[name] = mapped[name][:dim]
    return {name: tensor.contiguous() for name, tensor in mapped.items()}


def encoder_weights(state: dict[str, Tensor], about: PublishedWeights, *, grid: int) -> dict[str, Tensor]:
    """An encoder that MAE has trained, as the weights of an `Encoder` with a class token.

    Positions of another grid are interpolated. Its final norm is left out: what is probed is the mean of
    the last block's patch tokens, as of every row.

    Args:
        state: what the file holds, of any float type; a decoder is left out.
        about: the encoder's size.
        grid: tokens on a side of the data set's images.

    Raises:
        ValueError: for weights of another size.
    """
    state = {name: tensor.float() for name, tensor in state.items() if not name.startswith(MAE_DECODER)}
    positions = state.get("pos_embed", torch.empty(0))
    side = round(max(0, positions.shape[1] - 1) ** 0.5) if positions.dim() == 3 else 0
    shapes = mae_shapes(about, tokens=side**2)
    check(state, shapes, f"an encoder of MAE's of width {about.width} and {about.blocks} blocks")
    return {
        "embed.weight": state["patch_embed.proj.weight"].flatten(1),
        "embed.bias": state["patch_embed.proj.bias"],
        "positions": resampled(positions[0, 1:], grid).contiguous(),
        "class_token": state["cls_token"][0, 0] + positions[0, 0],
    } | {name: tensor for name, tensor in state.items() if name.startswith("blocks.")}


def resampled(positions: Tensor, grid: int) -> Tensor:
    """Embeddings (T, h) of a square grid of tokens, interpolated for one of `grid` on a side, as timm does."""
    side = round(len(positions) ** 0.5)
    if side == grid:
        return positions
    table = positions.T.reshape(1, -1, side, side)
    return F.interpolate(table, size=(grid, grid), mode="bicubic", antialias=True).flatten(2)[0].T
