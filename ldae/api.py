"""A finished run in a person's own Python: `from ldae import load`.

Shapes: N images, S their side in pixels, T tokens, h width of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ldae.baselines.encoder import Encoder
from ldae.dataset import to_float, to_uint8
from ldae.denoise import Denoised, denoise_images
from ldae.denoiser import Denoiser, mixed_precision
from ldae.folding import depth_of
from ldae.model import Finished, open_finished
from ldae.sources.pixels import to_pixels
from ldae.spec import PATCH
from ldae.tokenizers import Tokenizer
from ldae.tokenizers.patches import patchify
from ldae.training import pick_device

Images: TypeAlias = Image.Image | Sequence[Image.Image] | Tensor
BATCH = 256  # images a forward pass
SLACK = 1e-4  # by which rounding may carry pixels out of [-1, 1]


class Run:
    """A trained row or baseline and all that it takes to use it.

    Attributes:
        row: its name in the study.
        seed: of its training.
        image_size: S.
        classes: the names of the classes of the images that it was trained on, which it was not told, a few rows aside.
        model: a `Denoiser`, or the `Encoder` of MAE or MoCo v3; frozen.
        tokenizer: images to latents and back; None for a method that has none.
        record: of its training: lineage, cost, provenance.
        device: where it computes: a GPU where there is one.
    """

    def __init__(self, finished: Finished) -> None:
        self.row: str = finished.run["row"]
        self.seed: int = finished.run["seed"]
        self.image_size: int = finished.manifest["size"]
        self.classes: list[str] = finished.manifest["classes"]
        self.record: dict[str, Any] = finished.run
        self.device = pick_device()
        self.model: nn.Module = finished.network.to(self.device)
        self.tokenizer: Tokenizer | None = self.model.tokenizer if isinstance(self.model, Denoiser) else None
        self._finished = finished

    def preprocess(self, images: Images) -> Tensor:
        """Images as the network is given them: floats (N, 3, S, S) in [-1, 1], on its device.

        Args:
            images: a PIL image or a list of them, of any size and mode, of which the centre is cut out as from the
                training images; or a tensor (N, 3, S, S), or (3, S, S) for a single image: uint8, or floats in [-1, 1].

        Raises:
            ValueError: for anything else, and a tensor of another size, type or range.
        """
        if not isinstance(images, Tensor):
            pictures = [images] if isinstance(images, Image.Image) else list(images)
            other = [type(picture).__name__ for picture in pictures if not isinstance(picture, Image.Image)]
            if other or not pictures:
                raise ValueError(f"images: found {other[0] if other else 'none'}, expected PIL images or one tensor")
            images = torch.from_numpy(np.stack([to_pixels(picture, self.image_size) for picture in pictures]))
        if images.dim() == 3:
            images = images[None]
        size = self.image_size
        if images.shape[1:] != (3, size, size):
            raise ValueError(f"images: found shape {tuple(images.shape)}, expected (N, 3, {size}, {size})")
        if images.dtype == torch.uint8:
            return to_float(images.to(self.device))
        if not images.is_floating_point():
            raise ValueError(f"images: found {images.dtype}, expected uint8, or floats in [-1, 1]")
        if not (images.abs() <= 1 + SLACK).all():
            low, high = images.min().item(), images.max().item()
            raise ValueError(f"images: found floats from {low:g} to {high:g}, expected them in [-1, 1]")
        return images.to(self.device, torch.float32)

    def encode(self, images: Images, *, time: int = 10, offset: int = 0) -> Tensor:
        """The representation (N, h) that is probed: the mean of the tokens of clean images; see `tokens`."""
        batches = self.preprocess(images).split(BATCH)
        return torch.cat([self._tokens(batch, time, offset).mean(1) for batch in batches])

    def tokens(self, images: Images, *, time: int = 10, offset: int = 0) -> Tensor:
        """The activations (N, T, h) on clean images, token by token in rows from the upper left.

        Args:
            images: as `preprocess` takes them.
            time: the step that the conditioning is fixed to, 0 to 999; without meaning for MAE and MoCo v3.
            offset: of the block, from the encoder's last: -1 is the one before it, +1 the decoder's first.

        Raises:
            ValueError: for images that `preprocess` refuses, and for a time step or block that there is not.
        """
        return torch.cat([self._tokens(batch, time, offset) for batch in self.preprocess(images).split(BATCH)])

    @torch.inference_mode()
    def _tokens(self, batch: Tensor, time: int, offset: int) -> Tensor:
        depth = depth_of(self.model, time=time, offset=offset)
        if isinstance(self.model, Denoiser):
            return self.model.features(self.model.encode(batch), time=time, offsets=[offset])[0]
        assert isinstance(self.model, Encoder)
        with mixed_precision(batch.device):
            return self.model.blocks[:depth](self.model.embedded(patchify(batch, PATCH))).float()

    def denoise(self, images: Images, sigma: float, *, seed: int = 0) -> Denoised:
        """Adds noise to the images' latents and removes it again: `clean`, `noisy`, `denoised` uint8 (N, 3, S, S).

        Args:
            images: as `preprocess` takes them.
            sigma: standard deviation of the noise where the signal is 1, in units of the row's latents; the nearest
                level of the row's schedule is taken.
            seed: of the noise.

        Raises:
            ValueError: for images that `preprocess` refuses, and for MAE and MoCo v3, which do not denoise.
        """
        return denoise_images(self._finished.denoiser, to_uint8(self.preprocess(images)), sigma=sigma, seed=seed)


def load(folder: str | Path) -> Run:
    """Opens a finished run by its folder: its network, its tokenizer and what prepares images for them.

    Args:
        folder: of the run inside the results of a scale, e.g. `results/laptop/pretrain/ldae/seed0`.

    Raises:
        ValueError, OSError: in one line, for a folder that holds no run, or files that are damaged or missing.
    """
    return Run(open_finished(Path(folder)))
