"""The Diffusion Transformer: an encoder and a decoder of adaLN-zero blocks over tokens (Peebles & Xie; paper, App. A).

Shapes: N images, T tokens, h width, c width of the conditioning. `time` is an integer step (N,), `labels` (N,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldae.study.base import Size

TIME_FREQUENCIES = 256  # width of the sinusoidal time embedding (DiT)


def sinusoid(positions: Tensor, dim: int, *, cosine_first: bool) -> Tensor:
    """Sinusoidal embeddings (n, dim) of positions (n,), wavelengths from 2 pi to 2 pi * 10000."""
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(dim // 2, device=positions.device) / (dim // 2))
    angles = positions[:, None].float() * frequencies
    parts = (angles.cos(), angles.sin()) if cosine_first else (angles.sin(), angles.cos())
    return torch.cat(parts, dim=1)


def grid_positions(grid: int, width: int) -> Tensor:
    """Fixed embeddings (grid^2, width) of a square grid of tokens: half for the column, half for the row."""
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    halves = [sinusoid(axis.flatten(), width // 2, cosine_first=False) for axis in (columns, rows)]
    return torch.cat(halves, dim=1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer-normalised x (N, T, h), scaled and shifted by the conditioning (N, h)."""
    scale = 1 + scale.float()[:, None]  # in fp32: bf16 would round 1 + scale to 1/128
    return torch.addcmul(shift[:, None], F.layer_norm(x, x.shape[-1:], eps=1e-6), scale)


class Block(nn.Module):
    """Attention and MLP, each modulated and gated by the conditioning."""

    def __init__(self, width: int, heads: int, conditioning: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(conditioning, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    @property
    def weighted(self) -> tuple[nn.Linear, ...]:
        """The layers of the attention and of the MLP, in their order."""
        return self.qkv, self.proj, self.fc1, self.fc2

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Maps tokens x (N, T, h) to tokens (N, T, h), given the activated conditioning (N, c)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=1)  # (N, h) each
        x = torch.addcmul(x, gate1[:, None], self.attention(modulate(x, shift1, scale1)))
        hidden = F.gelu(self.fc1(modulate(x, shift2, scale2)), approximate="tanh")  # (N, T, 4h)
        return torch.addcmul(x, gate2[:, None], self.fc2(hidden))

    def attention(self, x: Tensor) -> Tensor:
        """Multi-head self-attention of x (N, T, h)."""
        n, t, h = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, h // self.heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)  # (N, heads, T, h / heads)
        return self.proj(x.transpose(1, 2).reshape(n, t, h))


class Transformer(nn.Module):
    """Tokens in, tokens out; the encoder is the first `encoder_blocks` of its blocks."""

    positions: Tensor

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        grid: int,
        size: Size,
        classes: int = 0,
    ) -> None:
        """Builds and initialises it for images of `grid` x `grid` tokens.

        With `classes`, label `classes` is the null label; 0 is a network without labels.
        """
        super().__init__()
        width, depth = size.width, size.encoder_blocks + size.decoder_blocks
        conditioning = max(1, round(width * size.conditioning))  # a quarter of the width (App. A), all of it in DiT
        self.encoder_blocks = size.encoder_blocks
        self.classes = classes
        # The weights that PyTorch draws here are replaced below, so they must use up no random numbers.
        with torch.random.fork_rng(devices=[]):
            self.embed = nn.Linear(in_dim, width)
            self.time = nn.Sequential(
                nn.Linear(TIME_FREQUENCIES, conditioning), nn.SiLU(), nn.Linear(conditioning, conditioning)
            )
            self.label = nn.Embedding(classes + 1, conditioning) if classes else None
            self.blocks = nn.ModuleList(Block(width, size.heads, conditioning) for _ in range(depth))
            self.head_modulation = nn.Linear(conditioning, 2 * width)
            self.head = nn.Linear(width, out_dim)
        self.register_buffer("positions", grid_positions(grid, width), persistent=False)
        self.initialise()

    def initialise(self) -> None:
        """DiT's initialisation: every block starts as the identity, the output as zero.

        The first numbers drawn are those of the embedding and then of each block. So an encoder starts with the same
        weights whatever the network predicts, is conditioned on, or has for a decoder.
        """
        for layer in (self.embed, *(linear for block in self.layers for linear in block.weighted)):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (cast(nn.Linear, self.time[0]), cast(nn.Linear, self.time[2])):
            nn.init.normal_(layer.weight, std=0.02)
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)
        for zero in (*(block.modulation for block in self.layers), self.head_modulation, self.head):
            nn.init.zeros_(zero.weight)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    @property
    def layers(self) -> list[Block]:
        """The blocks with their type, encoder first."""
        return cast("list[Block]", list(self.blocks))

    def open_gates(self) -> None:
        """Sets every residual gate to one for the probe of random weights; closed gates make a block the identity."""
        for block in self.layers:
            gates = block.modulation.bias.data.view(6, -1)
            gates[[2, 5]] = 1.0

    def condition(self, time: Tensor, labels: Tensor | None) -> Tensor:
        """The activated conditioning (N, c); without labels, a network that knows them takes the null label."""
        condition = self.time(sinusoid(time, TIME_FREQUENCIES, cosine_first=True))
        if self.label is not None:
            null = torch.full_like(time, self.classes)
            condition = condition + self.label(null if labels is None else labels)
        return F.silu(condition)

    def features(self, tokens: Tensor, time: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """The activations (N, T, h) after each of `blocks`, counted from 1, in one pass, without labels."""
        condition = self.condition(time, None)
        x = self.embed(tokens) + self.positions
        after = {}
        for number, layer in enumerate(self.layers[: max(blocks)], 1):
            x = layer(x, condition)
            if number in blocks:
                after[number] = x
        return [after[block] for block in blocks]

    def forward(self, tokens: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """Tokens (N, T, in_dim) to tokens (N, T, out_dim)."""
        condition = self.condition(time, labels)
        x = self.embed(tokens) + self.positions  # (N, T, h)
        for block in self.layers:
            x = block(x, condition)
        shift, scale = self.head_modulation(condition).chunk(2, dim=1)
        return self.head(modulate(x, shift, scale))
