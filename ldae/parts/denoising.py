"""Adds noise to images and removes it again with a trained denoiser (paper, Fig. 7 and 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ldae.parts.denoiser import Denoiser
from ldae.runtime.randomness import Randomness, Stream


class Denoised(NamedTuple):
    """Three versions of the same images (N, 3, S, S)."""

    clean: Tensor
    noisy: Tensor  # the noisy latents, decoded
    denoised: Tensor

    def converted(self, convert: Callable[[Tensor], Tensor]) -> Denoised:
        """The same after a conversion of each version, e.g. to pixels."""
        return Denoised(*map(convert, self))


def nearest_level(denoiser: Denoiser, sigma: float) -> tuple[int, float]:
    """The time step with the noise level nearest to `sigma`, and that level: the ratio of noise to signal."""
    ratios = denoiser.noise.noise / denoiser.noise.signal
    time = int((ratios - sigma).abs().argmin())
    return time, float(ratios[time])


@torch.inference_mode()
def denoise_images(denoiser: Denoiser, images: Tensor, *, sigma: float, seed: int = 0) -> Denoised:
    """Adds noise to the latents of images and predicts the clean latents; all versions are in [-1, 1].

    Args:
        denoiser: a trained row.
        images: (N, 3, S, S) in [-1, 1], on its device.
        sigma: standard deviation of the noise where the signal is 1; the nearest level of the row's schedule is used.
        seed: of the noise.
    """
    time, _ = nearest_level(denoiser, sigma)
    clean = denoiser.encode(images)
    noisy = denoiser.corrupt(clean, time, Randomness(images.device, seed, Stream.DENOISING))
    times = torch.full((len(images),), time, device=images.device)
    level = denoiser.noise.level(times)
    denoised = denoiser.predict_clean(noisy, times)
    return Denoised(images, denoiser.tokenizer.decode(noisy / level.signal), denoiser.tokenizer.decode(denoised))
