from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ldae.parts.network import Transformer
from ldae.parts.published import denoiser_weights
from ldae.study.base import Size
from ldae.study.spec import PublishedWeights


def network(*, conditioning: float = 0.25, classes: int = 0) -> Transformer:
    size = Size(width=32, heads=2, encoder_blocks=2, decoder_blocks=1, conditioning=conditioning)
    torch.manual_seed(0)
    return Transformer(in_dim=6, out_dim=6, grid=3, size=size, classes=classes)


def shaken(module: nn.Module) -> nn.Module:
    """The same with random numbers everywhere, so that nothing is hidden behind a zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


class PublishedDiT(nn.Module):
    """Peebles & Xie's network, composed of timm's layers; the names are those of the published weights."""

    def __init__(
        self, *, size: int, patch: int, channels: int, width: int, depth: int, heads: int, classes: int
    ) -> None:
        from timm.layers import Mlp, PatchEmbed
        from timm.models.vision_transformer import Attention

        super().__init__()
        self.patch, self.channels = patch, channels
        self.x_embedder = PatchEmbed(size, patch, channels, width, bias=True)
        self.t_embedder = nn.Module()
        self.t_embedder.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.y_embedder = nn.Module()
        self.y_embedder.embedding_table = nn.Embedding(classes + 1, width)
        self.pos_embed = nn.Parameter(torch.from_numpy(position_table(width, size // patch)).float()[None])
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            block = nn.Module()
            block.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
            block.attn = Attention(width, num_heads=heads, qkv_bias=True)
            block.mlp = Mlp(width, 4 * width, act_layer=lambda: nn.GELU(approximate="tanh"))
            block.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
            self.blocks.append(block)
        self.final_layer = nn.Module()
        self.final_layer.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.final_layer.linear = nn.Linear(width, patch * patch * 2 * channels)
        self.final_layer.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(10000) * torch.arange(128) / 128)
        angles = t[:, None].float() * frequencies[None]
        c = self.t_embedder.mlp(torch.cat([angles.cos(), angles.sin()], -1)) + self.y_embedder.embedding_table(y)
        x = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            parts = block.adaLN_modulation(c)[:, None].chunk(6, -1)
            x = x + parts[2] * block.attn(block.norm(x) * (1 + parts[1]) + parts[0])
            x = x + parts[5] * block.mlp(block.norm(x) * (1 + parts[4]) + parts[3])
        shift, scale = self.final_layer.adaLN_modulation(c)[:, None].chunk(2, -1)
        x = self.final_layer.linear(self.final_layer.norm(x) * (1 + scale) + shift)
        side, p = round(x.shape[1] ** 0.5), self.patch
        x = x.reshape(-1, side, side, p, p, 2 * self.channels)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(-1, 2 * self.channels, side * p, side * p)


def position_table(width: int, grid: int) -> np.ndarray:
    """The fixed table, entry by entry: the first half embeds the column, the second the row."""
    table = np.zeros((grid * grid, width))
    quarter = width // 4
    for row in range(grid):
        for column in range(grid):
            for half, position in enumerate((column, row)):
                for i in range(quarter):
                    angle = position / 10000 ** (i / quarter)
                    table[row * grid + column, half * 2 * quarter + i] = np.sin(angle)
                    table[row * grid + column, half * 2 * quarter + quarter + i] = np.cos(angle)
    return table


@pytest.mark.parametrize("null_label", [False, True])
def test_published_weights_give_the_published_output(null_label: bool) -> None:
    size, patch, channels, width, classes = 8, 2, 4, 32, 5
    theirs = PublishedDiT(size=size, patch=patch, channels=channels, width=width, depth=3, heads=4, classes=classes)
    table = theirs.pos_embed.data
    shaken(theirs).pos_embed.data = table
    about = PublishedWeights(path="dit.pt", sha256=64 * "0", width=width, heads=4, blocks=3, classes=classes)
    dim, grid = channels * patch**2, size // patch
    ours = Transformer(in_dim=dim, out_dim=dim, grid=grid, size=about.size(denoises=True), classes=classes)
    ours.load_state_dict(denoiser_weights(theirs.state_dict(), about, dim=dim, patch=patch, grid=grid))
    torch.manual_seed(0)
    images, times = torch.randn(3, channels, size, size), torch.tensor([0, 500, 999])
    labels = torch.full((3,), classes) if null_label else torch.tensor([0, 4, 2])
    tokens = images.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    with torch.no_grad():
        expected = theirs(images, times, labels)[:, :channels]  # the noise, without the variance
        output = ours(tokens, times, None if null_label else labels)  # (N, T, C p p)
    output = output.unflatten(1, (4, 4)).unflatten(3, (channels, patch, patch))
    assembled = output.permute(0, 3, 1, 4, 2, 5).reshape(expected.shape)
    torch.testing.assert_close(assembled, expected, rtol=1e-5, atol=1e-5)


def test_an_untrained_network_is_the_identity_until_its_gates_are_opened() -> None:
    fresh = network()
    tokens, time = torch.randn(2, 9, 6), torch.tensor([3, 3])
    embedded = fresh.embed(tokens) + fresh.positions
    torch.testing.assert_close(fresh.features(tokens, time, [2]), [embedded])
    assert fresh(tokens, time).abs().max() == 0
    fresh.open_gates()
    assert (fresh.features(tokens, time, [2])[0] - embedded).abs().mean() > 0.1


def test_features_are_those_after_each_block_asked_for() -> None:
    whole = shaken(network())
    tokens, time = torch.randn(2, 9, 6), torch.tensor([1, 7])
    seen = []
    for block in whole.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    whole(tokens, time)
    torch.testing.assert_close(whole.features(tokens, time, [3, 1]), [seen[2], seen[0]])
    torch.testing.assert_close(whole.features(tokens, time, [2]), [seen[1]])


def test_a_network_that_knows_labels_is_given_the_null_label_for_features() -> None:
    conditional = shaken(network(classes=4))
    tokens, time = torch.randn(2, 9, 6), torch.tensor([1, 7])
    null = conditional(tokens, time, torch.full((2,), 4))
    torch.testing.assert_close(conditional(tokens, time), null)
    assert (conditional(tokens, time, torch.tensor([0, 1])) - null).abs().max() > 1e-3
    conditional.label.weight.data[:4] = float("nan")
    assert conditional.features(tokens, time, [2])[0].isfinite().all()


def test_the_conditioning_is_narrow_and_costs_few_parameters() -> None:
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    narrow, wide = network(conditioning=0.25).blocks[0], network(conditioning=1.0).blocks[0]
    assert count(narrow.modulation) == 8 * 6 * 32 + 6 * 32
    assert count(wide) - count(narrow) == 24 * 6 * 32
