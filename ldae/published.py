"""The names and layouts of published weights, mapped on this project's network."""

from __future__ import annotations

import re

from torch import Tensor

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
