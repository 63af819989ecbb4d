"""The names and layouts of published weights, mapped on this project's networks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ldae.parts.network import Transformer, grid_positions
from ldae.parts.tokenizers.conv import MULTIPLES, Autoencoder, sizes
from ldae.study.base import PATCH
from ldae.study.spec import PublishedWeights

Shapes = dict[str, tuple[int, ...]]
Patterns = tuple[tuple[str, str], ...]  # of names and what replaces them, in order of matching
MAE_DECODER = ("decoder_", "mask_token")  # what pretraining alone uses
DIT: Patterns = (  # our names -> facebookresearch/DiT's, whose blocks are the encoder's and decoder's in one list
    (r"^embed\.", "x_embedder.proj."),
    (r"^time\.", "t_embedder.mlp."),
    (r"^label\.", "y_embedder.embedding_table."),
    (r"^head_modulation\.", "final_layer.adaLN_modulation.1."),
    (r"^head\.", "final_layer.linear."),
    (r"^(blocks\.\d+)\.modulation\.", r"\1.adaLN_modulation.1."),
    (r"^(blocks\.\d+)\.(qkv|proj)\.", r"\1.attn.\2."),
    (r"^(blocks\.\d+)\.(fc\d)\.", r"\1.mlp.\2."),
)
VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
WHOLE_MODEL = "first_stage_model."  # what the VAE's names begin with in a checkpoint of the diffusion model
VAE_SIGNS = {  # of the two namings, a name that tells it
    "latent-diffusion": "encoder.down.0.block.0.norm1.weight",
    "diffusers": "encoder.down_blocks.0.resnets.0.norm1.weight",
}
VAE: Patterns = (  # the names of latent diffusion or of diffusers -> ours; no name is in both
    (r"\.(mid\.block_1|mid_block\.resnets\.0)\.", ".middle.0."),
    (r"\.(mid\.attn_1|mid_block\.attentions\.0)\.", ".middle.1."),
    (r"\.(mid\.block_2|mid_block\.resnets\.1)\.", ".middle.2."),
    (r"\.(down|up)(_blocks)?\.(\d)\.", r".levels.\3."),
    (r"\.(block|resnets)\.", ".blocks."),
    (r"\.(down|up)(sample|samplers\.0)\.conv\.", ".resample.1."),
    (r"\.(nin|conv)_shortcut\.", ".shortcut."),
    (r"\.(norm_out|conv_norm_out|group_norm)\.", ".norm."),
    (r"\.(to_q|query)\.", ".q."),
    (r"\.(to_k|key)\.", ".k."),
    (r"\.(to_v|value)\.", ".v."),
    (r"\.(proj_out|to_out\.0|proj_attn)\.", ".proj."),
    (r"^(post_)?quant_conv\.", r"\1quant."),
)


def renamed(name: str, patterns: Patterns) -> str:
    """A name after all replacements."""
    for pattern, replacement in patterns:
        name = re.sub(pattern, replacement, name)
    return name


def check_shapes(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raises a `ValueError` for a state of other weights than these, which names the first; `what` they belong to."""
    for name in [*shapes, *sorted(state.keys() - shapes.keys())]:
        found = tuple(state[name].shape) if name in state else "absent"
        expected = shapes.get(name, "nothing of this name")
        if found != expected:
            raise ValueError(f"not the weights of {what}: {name} is {found}, expected {expected}")


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """The shape of each tensor of a state."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def denoiser_weights(
    state: Mapping[str, Tensor], about: PublishedWeights, *, dim: int, patch: int, grid: int
) -> dict[str, Tensor]:
    """A published DiT's weights as those of a row's network, which predicts the noise alone and no variance.

    A token has `dim` dimensions and covers `patch` x `patch` points of the latent map; the data set's images have
    `grid` tokens on a side.

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
    size = about.size(denoises=True)
    with torch.device("meta"):
        network = Transformer(in_dim=dim, out_dim=2 * dim, grid=grid, size=size, classes=about.classes).state_dict()
    shapes: Shapes = {"pos_embed": (1, grid**2, about.width)}
    shapes |= {renamed(name, DIT): shape for name, shape in shapes_of(network).items()}
    shapes["x_embedder.proj.weight"] = (about.width, dim // patch**2, patch, patch)
    what = f"a DiT of width {about.width} and {about.blocks} blocks"
    check_shapes(state, shapes, what)
    if not torch.allclose(positions[0], grid_positions(grid, about.width), atol=1e-4):
        raise ValueError(f"not the weights of {what}: pos_embed is not its fixed table of sines and cosines")
    mapped = {name: state[renamed(name, DIT)] for name in network}
    mapped["embed.weight"] = mapped["embed.weight"].flatten(1)  # a convolution's kernel: (h, channel, y, x)
    for name in (
        "head.weight",
        "head.bias",
    ):  # ordered (y, x, channel); the second half of the channels is the variance
        mapped[name] = mapped[name].unflatten(0, (patch * patch, -1)).transpose(0, 1).flatten(0, 1)[:dim]
    return {name: tensor.contiguous() for name, tensor in mapped.items()}


def encoder_weights(state: Mapping[str, Tensor], about: PublishedWeights, *, grid: int) -> dict[str, Tensor]:
    """An encoder that MAE has trained, as the weights of an `Encoder` with a class token; a decoder is left out.

    Positions are interpolated for images with `grid` tokens on a side. The final norm is left out: what is probed is
    the mean of the last block's patch tokens, as of every row.

    Raises:
        ValueError: for weights of another size.
    """
    from timm.layers.pos_embed import resample_abs_pos_embed  # timm takes seconds to import
    from timm.models.vision_transformer import VisionTransformer

    state = {name: tensor.float() for name, tensor in state.items() if not name.startswith(MAE_DECODER)}
    positions = state.get("pos_embed", torch.empty(0))
    side = round(max(1, positions.shape[1] - 1) ** 0.5) if positions.dim() == 3 else grid
    options: dict[str, Any] = {
        "embed_dim": about.width,
        "depth": about.blocks,
        "num_heads": about.heads,
        "num_classes": 0,
    }
    with torch.device("meta"):
        network = VisionTransformer(PATCH * side, PATCH, **options)
    what = f"an encoder of MAE's of width {about.width} and {about.blocks} blocks"
    check_shapes(state, shapes_of(network.state_dict()), what)
    positions = resample_abs_pos_embed(positions, [grid, grid])[0]
    return {
        "embed.weight": state["patch_embed.proj.weight"].flatten(1),
        "embed.bias": state["patch_embed.proj.bias"],
        "positions": positions[1:].contiguous(),
        "class_token": state["cls_token"][0, 0] + positions[0],
    } | {name: tensor for name, tensor in state.items() if name.startswith("blocks.")}


def from_stable_diffusion(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a published VAE, latent diffusion's KL-f8, as one for `Autoencoder`, in float32.

    The names are those of CompVis/latent-diffusion, alone or within a whole diffusion model, or those of diffusers;
    what is no part of the VAE is left out.

    Raises:
        ValueError: for other names, or for weights of another architecture.
    """
    if any(name.startswith(WHOLE_MODEL) for name in state):
        state = {k.removeprefix(WHOLE_MODEL): v for k, v in state.items() if k.startswith(WHOLE_MODEL)}
    naming = next((naming for naming, sign in VAE_SIGNS.items() if sign in state), None)
    if naming is None:
        found = repr(next(iter(state))) if state else "nothing"
        known = " or ".join(f"{sign!r} ({naming})" for naming, sign in VAE_SIGNS.items())
        raise ValueError(f"not the weights of a Stable Diffusion VAE: found {found}, expected {known} among the names")
    mapped = {}
    for published, tensor in state.items():
        if not published.startswith(VAE_PARTS):
            continue
        name = renamed(published, VAE)
        if naming == "latent-diffusion":  # which counts the decoder's levels from the highest resolution
            name = re.sub(r"^(decoder\.levels\.)(\d)", lambda m: f"{m[1]}{len(MULTIPLES) - 1 - int(m[2])}", name)
        if re.search(r"\.middle\.1\.[^.]+\.weight$", name) and tensor.ndim == 2:  # linear, here a 1 x 1 convolution
            tensor = tensor[:, :, None, None]
        mapped[name] = tensor.float()
    for name in ("encoder.conv_in.weight", "post_quant.weight"):  # which `sizes` reads
        if name not in mapped:
            raise ValueError(f"not the weights of a KL-f8 VAE: {name} is absent")
    with torch.device("meta"):
        expected = Autoencoder(**sizes(mapped)).state_dict()
    check_shapes(mapped, shapes_of(expected), "a KL-f8 VAE")
    return mapped
