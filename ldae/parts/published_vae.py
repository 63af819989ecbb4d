"""The names of published Stable Diffusion VAEs, latent diffusion's KL-f8, mapped on this project's autoencoder."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ldae.parts.tokenizers.conv import MULTIPLES, Autoencoder, sizes

PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
WHOLE_MODEL = "first_stage_model."  # what the VAE's names begin with in a checkpoint of the diffusion model
NAMES = {  # for each naming: a name that tells it, and patterns in order of matching
    "latent-diffusion": (
        "encoder.down.0.block.0.norm1.weight",
        (
            (r"\.mid\.block_1\.", ".middle.0."),
            (r"\.mid\.attn_1\.", ".middle.1."),
            (r"\.mid\.block_2\.", ".middle.2."),
            (r"\.(down|up)\.(\d)\.", r".levels.\2."),
            (r"\.block\.", ".blocks."),
            (r"\.(down|up)sample\.conv\.", ".resample.1."),
            (r"\.nin_shortcut\.", ".shortcut."),
            (r"\.proj_out\.", ".proj."),
            (r"\.norm_out\.", ".norm."),
        ),
    ),
    "diffusers": (
        "encoder.down_blocks.0.resnets.0.norm1.weight",
        (
            (r"\.mid_block\.resnets\.0\.", ".middle.0."),
            (r"\.mid_block\.attentions\.0\.", ".middle.1."),
            (r"\.mid_block\.resnets\.1\.", ".middle.2."),
            (r"\.(down|up)_blocks\.(\d)\.", r".levels.\2."),
            (r"\.resnets\.", ".blocks."),
            (r"\.(down|up)samplers\.0\.conv\.", ".resample.1."),
            (r"\.conv_shortcut\.", ".shortcut."),
            (r"\.group_norm\.", ".norm."),
            (r"\.(to_q|query)\.", ".q."),
            (r"\.(to_k|key)\.", ".k."),
            (r"\.(to_v|value)\.", ".v."),
            (r"\.(to_out\.0|proj_attn)\.", ".proj."),
            (r"\.conv_norm_out\.", ".norm."),
        ),
    ),
}
BOTH_NAMES = ((r"^(post_)?quant_conv\.", r"\1quant."),)


def from_stable_diffusion(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published VAE's state as one for `Autoencoder`, in float32.

    Args:
        state: named as by CompVis/latent-diffusion, alone or within a whole diffusion model, or as by diffusers; what
            is no part of the VAE is left out.

    Raises:
        ValueError: for other names, or for weights of another architecture.
    """
    if any(name.startswith(WHOLE_MODEL) for name in state):
        state = {k.removeprefix(WHOLE_MODEL): v for k, v in state.items() if k.startswith(WHOLE_MODEL)}
    naming = next((naming for naming, (sign, _) in NAMES.items() if sign in state), None)
    if naming is None:
        found = repr(next(iter(state))) if state else "nothing"
        known = " or ".join(f"{sign!r} ({naming})" for naming, (sign, _) in NAMES.items())
        raise ValueError(f"not the weights of a Stable Diffusion VAE: found {found}, expected {known} among the names")
    patterns = NAMES[naming][1] + BOTH_NAMES
    mapped = {}
    for name, tensor in state.items():
        if not name.startswith(PARTS):
            continue
        for pattern, ours in patterns:
            name = re.sub(pattern, ours, name)
        if naming == "latent-diffusion":  # which counts the decoder's levels from the highest resolution
            name = re.sub(r"^(decoder\.levels\.)(\d)", lambda m: f"{m[1]}{len(MULTIPLES) - 1 - int(m[2])}", name)
        if re.search(r"\.middle\.1\.[^.]+\.weight$", name) and tensor.ndim == 2:  # linear there, 1 x 1 convolution here
            tensor = tensor[:, :, None, None]
        mapped[name] = tensor.float()
    check(mapped)
    return mapped


def check(mapped: dict[str, Tensor]) -> None:
    """Refuses a state that `Autoencoder` would not load, in one line.

    Raises:
        ValueError: with the first weight that is absent or has another shape.
    """
    for needed in ("encoder.conv_in.weight", "post_quant.weight"):
        if needed not in mapped:
            raise ValueError(f"not the weights of a KL-f8 VAE: {needed} is absent")
    with torch.device("meta"):
        expected = Autoencoder(**sizes(mapped)).state_dict()
    for name in sorted(expected.keys() | mapped.keys()):
        found, wanted = (tuple(s[name].shape) if name in s else "absent" for s in (mapped, expected))
        if found != wanted:
            raise ValueError(f"not the weights of a KL-f8 VAE: {name} is {found}, expected {wanted}")
