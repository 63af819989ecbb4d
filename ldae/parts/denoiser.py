"""The method: tokenizer, noise, network and objective put together; images in, loss out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ldae.parts import tokenizers
from ldae.parts.network import Transformer
from ldae.parts.noise import Level, NoiseSchedule
from ldae.parts.objective import ERRORS, PREDICTIONS, WEIGHTS, projected_error
from ldae.parts.tokenizers.conv import ConvTokenizer
from ldae.parts.tokenizers.patches import patchify
from ldae.parts.tokenizers.pca import LinearTokenizer
from ldae.runtime.device import mixed_precision
from ldae.runtime.randomness import Randomness
from ldae.study.base import PATCH, PATCH_DIM
from ldae.study.stage_specs import DenoiserStage

LABEL_DROPOUT = 0.1  # of the labels become the null label (DiT)


class Draws(NamedTuple):
    """All that is random in a step, drawn for the whole batch before anything is computed."""

    time: Tensor  # (N,)
    noise: Tensor  # (N, T, d)
    keep_label: Tensor  # (N,) bool


class Denoiser(nn.Module):
    """The model of a row: `forward` maps images to the loss of each, `features` returns what is probed."""

    deviation: Tensor  # (d,) what an image's residual is divided by, component by component

    def __init__(self, stage: DenoiserStage, fitted: dict[str, Tensor], *, image_size: int, classes: int) -> None:
        """Composes a row's parts.

        `fitted` are the tensors of the tokenizer's fit; only rows with labels use the number of `classes`.
        """
        super().__init__()
        self.tokenizer = tokenizers.build(stage.tokenizer, fitted)
        self.linear_tokenizer = stage.tokenizer.traits.linear
        self.noise = NoiseSchedule(stage.noise)
        self.prediction = PREDICTIONS[stage.objective.predict]
        self.weight = WEIGHTS[stage.objective.weight]
        self.error = ERRORS[stage.objective.error]
        self.tail = stage.objective.tail
        self.image_input = stage.network.input == "image"
        self.image_output = stage.network.output == "image"
        self.dim = stage.tokenizer.dim
        self.grid = image_size // PATCH
        self.network = Transformer(
            in_dim=PATCH_DIM if self.image_input else self.dim,
            out_dim=PATCH_DIM if self.image_output else self.dim,
            grid=self.grid,
            size=stage.size,
            classes=classes if stage.network.labels else 0,
        )
        if self.image_output:
            whitened = stage.objective.units == "whitened"
            deviation = self.projection.spread if whitened else torch.ones_like(self.projection.spread)
            self.register_buffer("deviation", deviation, persistent=False)

    @property
    def projection(self) -> LinearTokenizer:
        """The tokenizer of a row on images, which must be an orthogonal projection."""
        return cast(LinearTokenizer, self.tokenizer)

    def draw(self, num: int, randomness: Randomness) -> Draws:
        """What is random in one step on `num` images."""
        return Draws(
            time=self.noise.draw(num, randomness),
            noise=randomness.normal(num, self.grid**2, self.dim),
            keep_label=randomness.uniform(num) >= LABEL_DROPOUT,
        )

    def view(self, latents: Tensor) -> Tensor:
        """The network's input for latents (N, T, d): the latents, or the patches of their image by inverse PCA."""
        return self.projection.decode_patches(latents) if self.image_input else latents

    def encode(self, inputs: Tensor) -> Tensor:
        """Latents (N, T, d) of images (N, 3, S, S), or of cached latents (N, T, d), which are only standardised."""
        if inputs.dim() == 4:
            return self.tokenizer.encode(inputs)
        return cast(ConvTokenizer, self.tokenizer).standardise(inputs)

    def forward(self, inputs: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """The loss of each image (N,) of a batch in [-1, 1] (N, 3, S, S), or of cached latents, with labels (N,)."""
        with torch.no_grad():
            patches = patchify(inputs, PATCH) if self.image_output else None  # (N, T, D)
            clean = self.encode(inputs) if patches is None else self.projection.encode_patches(patches)
            level = self.noise.level(draws.time)  # (N, 1, 1)
            noisy = level.mix(clean, draws.noise)  # (N, T, d)
            tokens = self.view(noisy)
            labels = torch.where(draws.keep_label, labels, self.network.classes)  # rows without labels ignore them
        with mixed_precision(tokens.device):
            output = self.network(tokens, draws.time, labels)  # (N, T, d) or (N, T, D)
        output = output.float()
        if patches is None:
            target = self.prediction.target(clean, draws.noise, level)
            error = self.error(output, target).mean((1, 2))
        else:
            basis, deviation = self.projection.basis, self.deviation
            # on images, eq. 4 fixes both the target (the image) and the error (squared)
            error = projected_error(output, patches, basis=basis, deviation=deviation, tail=self.tail).mean(1)
        return self.weight(level)[:, 0, 0] * error

    def predict_clean(
        self, noisy: Tensor, time: Tensor, labels: Tensor | None = None, level: Level | None = None
    ) -> Tensor:
        """Estimates the clean latents (N, T, d) from noisy ones (N, T, d) at integer time steps (N,).

        Without `labels` (N,) a network that was trained with them is given the null label. `level` (N, 1, 1) is that of
        the noise, where it is not the schedule's own at `time`.
        """
        with mixed_precision(noisy.device):
            output = self.network(self.view(noisy), time, labels).float()
        if self.image_output:
            output = self.projection.encode_patches(output)
        return self.prediction.clean(output, noisy, level or self.noise.level(time))

    def corrupt(self, clean: Tensor, time: int, randomness: Randomness) -> Tensor:
        """Latents (N, T, d) with the noise of a time step."""
        level = self.noise.level(torch.full((len(clean),), self.noise.nearest(time), device=clean.device))
        return level.mix(clean, randomness.normal(*clean.shape))

    def features(self, latents: Tensor, *, time: int, offsets: Sequence[int] = (0,)) -> list[Tensor]:
        """The activations (N, T, h) on latents (N, T, d), after the blocks at `offsets` from the encoder's last.

        No label is given. In training, the input of a network on images always lies in the span of V. So clean images
        are projected too, V^T V x: outside of that span the patch embedding has had no gradient.
        """
        times = torch.full((len(latents),), self.noise.nearest(time), device=latents.device)
        blocks = [self.network.encoder_blocks + offset for offset in offsets]
        with mixed_precision(latents.device):
            return [activations.float() for activations in self.network.features(self.view(latents), times, blocks)]
