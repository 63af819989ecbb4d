"""MAE: a quarter of the patches is encoded, the pixels of the others are predicted (He et al., 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldae.parts.methods.encoder import Encoder, EncoderSize, take, vit_blocks, xavier
from ldae.parts.network import grid_positions
from ldae.runtime.device import mixed_precision
from ldae.runtime.randomness import Randomness
from ldae.study.base import PATCH, PATCH_DIM
from ldae.study.methods import MAETraining

KEPT = 0.25  # of the tokens (its Sec. 3)


def normalised(patches: Tensor) -> Tensor:
    """Patches (N, T, D), each less its mean and divided by its standard deviation: what MAE predicts (its Sec. 3)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


class MAE(nn.Module):
    """An encoder of visible patches and a narrow decoder of all of them."""

    mask_token: nn.Parameter
    positions: Tensor  # (T, decoder_width), fixed

    def __init__(
        self,
        *,
        image_size: int,
        width: int,
        heads: int,
        blocks: int,
        decoder_width: int,
        decoder_heads: int,
        decoder_blocks: int,
    ) -> None:
        """Builds both halves; the first four arguments are the encoder's."""
        super().__init__()
        self.grid = image_size // PATCH
        self.encoder = Encoder(image_size=image_size, width=width, heads=heads, blocks=blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.narrow = xavier(nn.Linear(width, decoder_width))
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, decoder_width))  # it decays, as matrices do
        self.register_buffer("positions", grid_positions(self.grid, decoder_width), persistent=False)
        self.decoder = vit_blocks(decoder_blocks, width=decoder_width, heads=decoder_heads)
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=1e-6)
        self.head = xavier(nn.Linear(decoder_width, PATCH_DIM))

    @property
    def num_kept(self) -> int:
        """The number of visible tokens of an image."""
        return max(1, int(KEPT * self.grid**2))

    @property
    def layers(self) -> list[nn.Module]:
        """The blocks of both halves."""
        return [*self.encoder.blocks, *self.decoder]

    def draw(self, num: int, randomness: Randomness) -> Tensor:
        """A random order (num, T) of each image's tokens, of which the first are visible."""
        return randomness.uniform(num, self.grid**2).argsort(1)

    def forward(self, images: Tensor, order: Tensor) -> Tensor:
        """The mean squared error (N,) over the hidden patches of images (N, 3, S, S) in [-1, 1]."""
        with mixed_precision(images.device):
            patches = self.encoder.patches(images)  # (N, T, D)
            visible, hidden = order[:, : self.num_kept], order[:, self.num_kept :]
            encoded = self.encoder.blocks(take(self.encoder.embedded(patches), visible))  # (N, kept, h)
            encoded = self.narrow(self.norm(encoded))
            masks = self.mask_token.to(encoded.dtype).expand(*hidden.shape, -1)
            tokens = take(torch.cat([encoded, masks], dim=1), order.argsort(1))  # in the image's order again
            predicted = self.head(self.decoder_norm(self.decoder(tokens + self.positions)))  # (N, T, D)
            errors = (predicted.float() - normalised(patches)).square().mean(-1)  # (N, T)
            return errors.gather(1, hidden).mean(1)


def build(size: EncoderSize, recipe: MAETraining) -> MAE:
    """An untrained masked autoencoder with the decoder of a recipe."""
    return MAE(
        **size,
        decoder_width=recipe.decoder_width,
        decoder_heads=recipe.decoder_heads,
        decoder_blocks=recipe.decoder_blocks,
    )
