"""The convolutional tokenizer: a token is 2 x 2 points of the latent map of a VAE, latent diffusion's KL-f8 (Sec. 4.2).

Shapes: N images of S x S pixels, C channels of the latent map, w width of a layer, h its side.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldae.parts.tokenizers.patches import patchify, standard_divisor, unpatchify

MULTIPLES = (1, 2, 4, 4)  # of the width, at each level; between two levels the side is halved
LATENT_PATCH = 2  # as in DiT-XL/2: with the stride of 8, a token for every 16 x 16 pixels
LOG_VARIANCES = (-30.0, 20.0)  # limits, in which the variance and its logarithm are finite (latent diffusion)
PUBLISHED_FACTOR = 0.18215  # of the latents of Stable Diffusion's VAE, in latent diffusion and in DiT
BATCH = 64  # images at a time: of KL-f8 at 256 pixels each holds 130 MB in encoding, twice that in decoding
PREFIX = "autoencoder."  # of the weights among a fit's tensors


def memory_format() -> torch.memory_format:
    """The order of the weights in memory, which all activations follow.

    Channels last is a quarter faster on a CPU. On an H100 it is a sixth slower: CUDA's group norm turns it back.
    """
    return torch.contiguous_format if torch.cuda.is_available() else torch.channels_last


class GroupNorm(nn.GroupNorm):
    """A norm over groups of channels that turns narrow maps whose channels come last, where it pays.

    Torch's own takes longer on them than both turns and the norm between them: its gradient always, on 8 channels four
    times, and the norm itself on maps of less than 1024 points, for which it has a way of its own (torch 2.15).
    """

    def __init__(self, width: int) -> None:
        """32 groups where a layer is wide enough: a group of one channel would take away what the bias before adds."""
        super().__init__(min(32, width // 2), width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """X (N, w, h, h) to the same shape."""
        if self.num_channels <= 32 and (torch.is_grad_enabled() or x.shape[2] < 32):
            return super().forward(x.contiguous()).contiguous(memory_format=memory_format())
        return super().forward(x)


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(in_width)
        self.conv1 = nn.Conv2d(in_width, out_width, 3, padding=1)
        self.norm2 = GroupNorm(out_width)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1)
        self.shortcut = nn.Identity() if in_width == out_width else nn.Conv2d(in_width, out_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """X (N, in_width, h, h) to (N, out_width, h, h)."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        return self.conv2(F.silu(self.norm2(hidden))).add_(self.shortcut(x))  # in place: a pass less over memory


class Attention(nn.Module):
    """Self-attention of one head over all places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = GroupNorm(width)
        self.q, self.k, self.v, self.proj = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """X (N, w, h, h) to the same shape."""
        normed = self.norm(x)
        # (N, 1, h^2, w): the fused kernels want the axis of heads
        q, k, v = (layer(normed).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self.proj(mixed.transpose(1, 2).unflatten(2, x.shape[2:]))


def levels(widths: list[int], *, blocks: int, resample: Callable[[int], nn.Module]) -> nn.Sequential:
    """For each pair of widths, residual blocks at one resolution and the step to the next one, which the last lacks."""
    steps = [*(resample(width) for width in widths[1:-1]), nn.Identity()]
    sequence = nn.Sequential()
    for (before, width), step in zip(pairwise(widths), steps, strict=True):
        residuals = nn.Sequential(*(Residual(a, b) for a, b in pairwise([before] + [width] * blocks)))
        sequence.append(nn.Sequential(OrderedDict(blocks=residuals, resample=step)))
    return sequence


def halving(width: int) -> nn.Module:
    """Half as high and wide: a convolution of stride 2, padded on the right and below alone."""
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, width, 3, stride=2))


class Doubling(nn.Sequential):
    """Twice as high and wide: every point four times, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """X (N, w, h, h) to (N, w, 2 h, 2 h)."""
        if x.is_cuda:
            return super().forward(x)
        # The same, with 16 products for each point instead of 36: a point reaches 4 x 4 points, and each of its weights
        # there is the sum over those of its four copies.
        conv = cast(nn.Conv2d, self[1])
        weight = F.avg_pool2d(conv.weight, 2, stride=1, padding=1, divisor_override=1)  # (w, w, 4, 4), sums
        return F.conv_transpose2d(x, weight.flip(2, 3).transpose(0, 1), conv.bias, stride=2, padding=1)


def middle(width: int) -> nn.Sequential:
    """What both halves have at the lowest resolution, the only place with attention."""
    return nn.Sequential(Residual(width, width), Attention(width), Residual(width, width))


class ConvEncoder(nn.Module):
    """Images to maps an eighth as high and wide."""

    def __init__(self, *, width: int, blocks: int, out_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        widths = [width] + [width * multiple for multiple in MULTIPLES]
        self.levels = levels(widths, blocks=blocks, resample=halving)
        self.middle = middle(widths[-1])
        self.norm = GroupNorm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S) to (N, out_channels, S/8, S/8)."""
        x = self.middle(self.levels(self.conv_in(images)))
        return self.conv_out(F.silu(self.norm(x)))


class Decoder(nn.Module):
    """The encoder's mirror image, with one more block a level."""

    def __init__(self, *, width: int, blocks: int, in_channels: int) -> None:
        super().__init__()
        widths = [width * multiple for multiple in (MULTIPLES[-1], *reversed(MULTIPLES))]
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.middle = middle(widths[0])
        self.levels = levels(widths, blocks=blocks + 1, resample=Doubling)
        self.norm = GroupNorm(width)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Latent maps (N, in_channels, S/8, S/8) to images (N, 3, S, S)."""
        x = self.levels(self.middle(self.conv_in(latents)))
        return self.conv_out(F.silu(self.norm(x)))


class Autoencoder(nn.Module):
    """A VAE whose latents are a map of C channels, an eighth as high and wide as the image."""

    def __init__(self, *, width: int, blocks: int, channels: int) -> None:
        """Builds it, with torch's own initial weights as latent diffusion does.

        KL-f8 has a `width` of 128 channels at the first level, 2 residual `blocks` a level, and C = 4 `channels`.
        """
        super().__init__()
        self.encoder = ConvEncoder(width=width, blocks=blocks, out_channels=2 * channels)
        self.quant = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.post_quant = nn.Conv2d(channels, channels, 1)
        self.decoder = Decoder(width=width, blocks=blocks, in_channels=channels)
        self.to(memory_format=memory_format())

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, S, S) in [-1, 1] to mean and log variance of their latents, (N, C, S/8, S/8) each."""
        mean, log_variance = self.quant(self.encoder(images)).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCES)

    def decode(self, latents: Tensor) -> Tensor:
        """Latent maps (N, C, S/8, S/8) to images (N, 3, S, S)."""
        return self.decoder(self.post_quant(latents))


def sizes(state: dict[str, Tensor]) -> dict[str, int]:
    """The arguments of the `Autoencoder` whose state this is."""
    blocks = [name for name in state if re.fullmatch(r"encoder\.levels\.0\.blocks\.\d+\.conv1\.weight", name)]
    width, channels = len(state["encoder.conv_in.weight"]), len(state["post_quant.weight"])
    return {"width": width, "blocks": len(blocks), "channels": channels}


class ConvTokenizer(nn.Module):
    """Standardised 2 x 2 patches of the latent map of a trained `Autoencoder`, which is frozen.

    Latents are the posterior's mean, without its noise: at latent diffusion's KL weight of 1e-6 the noise's variance is
    far below the latents', and a row adds its own noise anyway.
    """

    mean: Tensor  # (d,)
    divisor: Tensor  # (d,)

    def __init__(self, fitted: dict[str, Tensor], *, dim: int, scale: str) -> None:
        """Takes the autoencoder's state, its names prefixed, and the `mean` (d,) and `variance` (d,) of its tokens.

        The scale `dimension` or `global` standardises tokens on data; `published` multiplies them by Stable Diffusion's
        factor and leaves their mean where it is. Where the fit is of another dimension than `dim`, 4 C, it is a
        `ValueError`.
        """
        super().__init__()
        weights = {name.removeprefix(PREFIX): tensor for name, tensor in fitted.items() if name.startswith(PREFIX)}
        size = sizes(weights)
        fitted_dim = size["channels"] * LATENT_PATCH**2
        if dim != fitted_dim:
            raise ValueError(f"tokenizer.dim: {dim}, but the fit has {fitted_dim} dimensions")
        with torch.device("meta"):  # the weights are at hand, so that none are drawn
            self.autoencoder = Autoencoder(**size).eval()
        self.autoencoder.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
        self.autoencoder.to(memory_format=memory_format()).requires_grad_(False)
        mean, divisor = fitted["mean"], standard_divisor(fitted["variance"], scale)
        if scale == "published":
            mean, divisor = torch.zeros(dim), torch.full((dim,), 1 / PUBLISHED_FACTOR)
        self.register_buffer("mean", mean.float(), persistent=False)
        self.register_buffer("divisor", divisor.float().contiguous(), persistent=False)

    def raw(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S) in [-1, 1] to the posterior's mean as tokens (N, T, d), not standardised."""
        means = [self.autoencoder.posterior(part)[0] for part in images.split(BATCH)]
        return patchify(torch.cat(means), LATENT_PATCH)

    def standardise(self, raw: Tensor) -> Tensor:
        """Raw tokens (N, T, d), of any float type, to latents (N, T, d)."""
        return (raw - self.mean) / self.divisor

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S) in [-1, 1] to latents (N, T, d)."""
        return self.standardise(self.raw(images))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, T, d) to images (N, 3, S, S)."""
        maps = unpatchify(latents * self.divisor + self.mean, LATENT_PATCH)
        return torch.cat([self.autoencoder.decode(part) for part in maps.split(BATCH)])


build = ConvTokenizer
