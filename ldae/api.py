"""A finished run in a user's Python: `from ldae import load`.

Shapes: N images, S their side in pixels, T tokens, h width of the network.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ldae.data.prepared import to_float, to_uint8
from ldae.data.sources.pixels import read_picture, to_pixels
from ldae.parts.denoiser import Denoiser
from ldae.parts.denoising import Denoised, denoise_images
from ldae.parts.folding import depth_of
from ldae.parts.loading import FinishedRun, find_run, open_finished
from ldae.parts.methods.encoder import Encoder
from ldae.parts.tokenizers import TokenizerModule
from ldae.runtime.device import mixed_precision, pick_device
from ldae.study.results import RunRecord
from ldae.study.spec import Features

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
Images: TypeAlias = Picture | Tensor | Sequence[Picture | Tensor]
FORMS = "paths, PIL images, arrays or tensors"
BATCH = 256  # images a forward pass
SLACK = 1e-4  # by which rounding may carry pixels out of [-1, 1]


class Run:
    """A trained row or baseline, ready to use.

    Attributes:
        row: its name in the study.
        seed: of its training.
        image_size: S.
        classes: the names of the classes of its training images; only class-conditional rows were trained with labels.
        model: a `Denoiser`, or the `Encoder` of MAE or MoCo v3; frozen.
        tokenizer: maps images to latents and back; None for MAE and MoCo v3.
        record: the record of its training: lineage, cost, provenance.
        folder: where it was loaded from.
        accuracy: of the linear probe on the default output of `encode`, 0 to 1; None if that probe has not run.
        device: where it computes: a GPU if there is one.
    """

    def __init__(self, finished: FinishedRun) -> None:
        self.row: str = finished.run.row
        self.seed: int = finished.run.seed
        self.image_size: int = finished.manifest.size
        self.classes: list[str] = list(finished.manifest.classes)
        self.record: RunRecord = finished.run
        self.folder: Path = finished.folder
        probed = finished.probe(Features())
        self.accuracy: float | None = probed.value if probed else None
        self.device = pick_device()
        self.model: nn.Module = finished.network.to(self.device)
        self.tokenizer: TokenizerModule | None = self.model.tokenizer if isinstance(self.model, Denoiser) else None
        self._finished = finished

    def __repr__(self) -> str:
        accuracy = "not probed yet" if self.accuracy is None else f"accuracy {100 * self.accuracy:.1f} %"
        return f"<{self.row}, seed {self.seed}, {accuracy}: {self.folder}>"

    def preprocess(self, images: Images) -> Tensor:
        """The network's input for images: floats (N, 3, S, S) in [-1, 1], on its device.

        `images` are one image or a list of them: paths of files, PIL images, or uint8 arrays (H, W), (H, W, 3),
        (H, W, 4) or (N, H, W, 3), of any size, whose centre is cut out as from the training images. Tensors and arrays
        (3, S, S) or (N, 3, S, S) of uint8, or of floats in [-1, 1], are taken as they are.

        Raises:
            ValueError, OSError: in one line, for anything else, a file that is not an image, tensors of another size,
                type or range. Floats in [0, 1] are taken as they are, with a warning.
        """
        return torch.cat(list(self._batches(images)))

    def _batches(self, images: Images) -> Iterator[Tensor]:
        """The same in batches of one forward pass; files are read batch by batch."""
        if isinstance(images, Tensor | np.ndarray):
            yield from self._one(images).split(BATCH)
            return
        single = isinstance(images, str | os.PathLike | Image.Image) or not isinstance(images, Iterable)
        listed: list[Any] = [images] if single else list(cast(Iterable[Any], images))
        if not listed:
            raise ValueError(f"images: found none, expected {FORMS}")
        for start in range(0, len(listed), BATCH):
            yield torch.cat([self._one(image) for image in listed[start : start + BATCH]])

    def _one(self, image: Picture | Tensor) -> Tensor:
        if isinstance(image, Tensor):
            return self._from_tensor(image)
        if isinstance(image, np.ndarray):
            return self._from_array(image)
        if isinstance(image, Image.Image):
            pixels = to_pixels(image, self.image_size, white=self._finished.white)
        elif isinstance(image, str | os.PathLike):
            pixels = read_picture(Path(image), self.image_size, self._finished.white)
        else:
            raise ValueError(f"images: found {type(image).__name__}, expected {FORMS}")
        return self._from_tensor(torch.from_numpy(pixels.copy()))

    def _from_array(self, array: NDArray[Any]) -> Tensor:
        """Pictures with their channels last, or prepared images."""
        size = self.image_size
        if array.shape[-3:] == (3, size, size):
            return self._from_tensor(torch.from_numpy(array))
        if not (array.ndim == 2 or array.ndim in (3, 4) and array.shape[-1] in (3, 4)):
            raise ValueError(
                f"images: found an array of shape {array.shape}, expected (H, W, 3) or (N, H, W, 3) of any size, or "
                f"(N, 3, {size}, {size})"
            )
        if array.dtype != np.uint8:
            raise ValueError(f"images: found an array of {array.dtype}, expected pixels of uint8, 0 to 255")
        return torch.cat([self._one(Image.fromarray(picture)) for picture in (array if array.ndim == 4 else [array])])

    def _from_tensor(self, images: Tensor) -> Tensor:
        """Prepared images (N, 3, S, S) or (3, S, S)."""
        if images.dim() == 3:
            images = images[None]
        size = self.image_size
        if images.shape[1:] != (3, size, size):
            raise ValueError(f"images: found shape {tuple(images.shape)}, expected (N, 3, {size}, {size})")
        if images.dtype == torch.uint8:
            return to_float(images.to(self.device))
        if not images.is_floating_point():
            raise ValueError(f"images: found {images.dtype}, expected uint8, or floats in [-1, 1]")
        low, high = images.min().item(), images.max().item()
        if not (abs(low) <= 1 + SLACK and abs(high) <= 1 + SLACK):
            raise ValueError(f"images: found floats from {low:g} to {high:g}, expected them in [-1, 1]")
        if low >= 0 and high > 0:
            warnings.warn(
                f"images: floats from {low:g} to {high:g} look like pixels in [0, 1], and are expected in [-1, 1]; "
                "2 * images - 1 would be",
                stacklevel=2,
            )
        return images.to(self.device, torch.float32)

    def encode(self, images: Images, *, time: int = 10, offset: int = 0) -> Tensor:
        """The probed representation (N, h): the mean of the tokens of clean images; arguments as for `tokens`."""
        return torch.cat([self._tokens(batch, time, offset).mean(1) for batch in self._batches(images)])

    def tokens(self, images: Images, *, time: int = 10, offset: int = 0) -> Tensor:
        """The activations (N, T, h) on clean images, token by token in rows from the upper left.

        Args:
            images: as for `preprocess`.
            time: the time step of the conditioning, 0 to 999; without meaning for MAE and MoCo v3.
            offset: of the block, from the encoder's last: -1 is the one before it, +1 the decoder's first.

        Raises:
            ValueError: for images that `preprocess` refuses, and for a time step or block that does not exist.
        """
        return torch.cat([self._tokens(batch, time, offset) for batch in self._batches(images)])

    @torch.inference_mode()
    def _tokens(self, batch: Tensor, time: int, offset: int) -> Tensor:
        depth = depth_of(self.model, time=time, offset=offset)
        if isinstance(self.model, Denoiser):
            return self.model.features(self.model.encode(batch), time=time, offsets=[offset])[0]
        assert isinstance(self.model, Encoder)
        with mixed_precision(batch.device):
            return self.model.blocks[:depth](self.model.embedded(self.model.patches(batch))).float()

    def denoise(self, images: Images, sigma: float, *, seed: int = 0) -> Denoised:
        """Adds noise to the images' latents and removes it again: `clean`, `noisy`, `denoised` uint8 (N, 3, S, S).

        `sigma` is the standard deviation of the noise where the signal is 1, in units of the row's latents; the nearest
        level of the row's schedule is used.

        Raises:
            ValueError: for images that `preprocess` refuses, and for MAE and MoCo v3, which do not denoise.
        """
        pixels = to_float(to_uint8(self.preprocess(images)))
        return denoise_images(self._finished.denoiser, pixels, sigma=sigma, seed=seed).converted(to_uint8)


def load(folder: str | os.PathLike[str], row: str | None = None, *, seed: int | None = None) -> Run:
    """Opens a finished run: its network, its tokenizer and what prepares images for them.

    `folder` is that of the run, e.g. `results/laptop/pretrain/ldae/seed0`, of its row, or of all results of a scale,
    `results/laptop`, in which `row` names one. Of several seeds the smallest is the default.

    Raises:
        ValueError, OSError: in one line, for a folder that holds no run, or files that are damaged or missing.
    """
    return Run(open_finished(find_run(Path(folder).expanduser(), row=row, seed=seed)))
