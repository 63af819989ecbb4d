"""MAE: a quarter of the patches is encoded, the pixels of the others are predicted (He et al., 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldae.parts.methods.encoder import Encoder, vit_blocks, xavier
from ldae.parts.network import grid_positions
from ldae.runtime.device import mixed_precision
from ldae.runtime.randomness import Randomness
from ldae.study.base import PATCH, PATCH_DIM, Size
from ldae.study.methods import MAETraining

KEPT = 0.25  # of the tokens (its Sec. 3)


def normalised(patches: Tensor) -> Tensor:
    """Patches (N, T, D), each less its mean and divided by its standard deviation: what MAE predicts (its Sec. 3)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


class MAE(nn.Module):
    """An encoder of visible patches and a narrow decoder of all of them."""

    positions: Tensor  # (T, width of the decoder), fixed

    def __init__(self, size: Size, recipe: MAETraining, image_size: int) -> None:
        """Builds an encoder of this size and the decoder of a recipe."""
        super().__init__()
        narrow = recipe.decoder_width
        self.grid = image_size // PATCH
        self.encoder = Encoder(size, image_size)
        self.norm = nn.LayerNorm(size.width, eps=1e-6)
        self.narrow = xavier(nn.Linear(size.width, narrow))
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, narrow))  # it decays, as matrices do
        self.register_buffer("positions", grid_positions(self.grid, narrow), persistent=False)
        self.decoder = vit_blocks(recipe.decoder_blocks, width=narrow, heads=recipe.decoder_heads)
        self.decoder_norm = nn.LayerNorm(narrow, eps=1e-6)
        self.head = xavier(nn.Linear(narrow, PATCH_DIM))

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
            tokens = self.encoder.embedded(patches)  # (N, T, h)
            encoded = self.encoder.blocks(torch.take_along_dim(tokens, visible[:, :, None], dim=1))  # (N, kept, h)
            encoded = self.narrow(self.norm(encoded))
            masks = self.mask_token.to(encoded.dtype).expand(*hidden.shape, -1)
            tokens = torch.cat([encoded, masks], dim=1)
            tokens = torch.take_along_dim(tokens, order.argsort(1)[:, :, None], dim=1)  # in the image's order again
            predicted = self.head(self.decoder_norm(self.decoder(tokens + self.positions)))  # (N, T, D)
            errors = (predicted.float() - normalised(patches)).square().mean(-1)  # (N, T)
            return errors.gather(1, hidden).mean(1)


build = MAE
build_encoder = Encoder
