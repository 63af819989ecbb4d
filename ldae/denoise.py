"""Stage: what a trained row makes of noisy images, for figures, and of a user's own pictures (paper, Fig. 7 and 8)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ldae.dataset import Split, to_float, to_uint8
from ldae.denoiser import Denoiser
from ldae.files import read_json, sums_of, whole, write_json
from ldae.model import open_denoiser, open_finished
from ldae.progress import log
from ldae.randomness import Randomness
from ldae.record import inputs_of, lineage, provenance
from ldae.sources.pixels import decode
from ldae.spec import DenoiseStage
from ldae.training import device_name, pick_device

DENOISING = 9  # a stream of randomness
GAP = 4  # pixels between the panels of a picture


class Denoised(NamedTuple):
    """Images (N, 3, S, S), uint8."""

    clean: Tensor
    noisy: Tensor  # the noisy latents, decoded
    denoised: Tensor


@torch.inference_mode()
def denoise_images(denoiser: Denoiser, images: Tensor, *, sigma: float, seed: int = 0) -> Denoised:
    """Adds noise to the latents of uint8 images (N, 3, S, S), and removes it again.

    Args:
        denoiser: a trained row.
        images: uint8, on its device.
        sigma: standard deviation of the noise where the signal is 1; the nearest level of the row's schedule is taken.
        seed: of the noise.
    """
    ratio = denoiser.noise.noise / denoiser.noise.signal
    time = int((ratio - sigma).abs().argmin())
    clean = denoiser.encode(to_float(images))
    noisy = denoiser.corrupt(clean, time, Randomness(images.device, seed, DENOISING))
    times = torch.full((len(images),), time, device=images.device)
    level = denoiser.noise.level(times)
    denoised = denoiser.predict_clean(noisy, times)
    shown = (denoiser.tokenizer.decode(latents) for latents in (noisy / level.signal, denoised))
    return Denoised(images, *(to_uint8(part) for part in shown))


def denoise(
    stage: DenoiseStage,
    *,
    row: str,
    revision: int,
    dataset: Path,
    tokenizer: Path,
    model: Path,
    out: Path,
    import_seconds: float = 0.0,
) -> None:
    """Writes `pictures.npz` (clean, noisy, denoised validation images, uint8) and `pictures.json` into `out`.

    Args:
        stage: how many images, and how much noise.
        row: the row's name.
        revision: of the code that denoises.
        dataset, tokenizer, model: folders of earlier stages.
        out: where to write.
        import_seconds: from the start of the process until now.
    """
    device, manifest = pick_device(), read_json(dataset / "manifest.json")
    inputs = inputs_of(dataset=dataset, tokenizer=tokenizer, model=model)
    denoiser = open_denoiser(model, tokenizer, manifest).to(device)
    val = Split.open(dataset, "val")
    chosen = np.linspace(0, len(val) - 1, min(stage.num, len(val))).astype(np.int64)  # of all classes
    result = denoise_images(denoiser, val.batch(chosen, device)[0], sigma=stage.sigma)
    with whole(out / "pictures.npz") as partial, partial.open("wb") as file:
        arrays = {name: images.cpu().numpy() for name, images in result._asdict().items()}
        np.savez(file, allow_pickle=False, **arrays)
    write_json(
        out / "pictures.json",
        {
            "row": row,
            "sigma": stage.sigma,
            "lineage": lineage("denoise", stage, revision, read_json(model / "run.json")["lineage"]),
            "inputs": inputs,
            "sha256": sums_of(out / "pictures.npz"),
            "provenance": provenance(device_name(device), import_seconds),
        },
    )


def denoise_pictures(pictures: list[Path], *, model: Path, sigma: float, seed: int, out: Path) -> None:
    """Writes a PNG for each of a user's pictures: clean, noisy and denoised, side by side.

    Args:
        pictures: image files of any kind and size; the centre is cut out at the size that the row was trained on.
        model: the folder of a trained row, inside the results of a scale.
        sigma: as `denoise_images` takes it.
        seed: of the noise.
        out: the folder to write into.

    Raises:
        ValueError, OSError: in one line, for a file that is no image or a folder that holds no trained row.
    """
    finished, device = open_finished(model), pick_device()
    denoiser = finished.denoiser.to(device)
    for picture in pictures:
        try:
            pixels = decode(picture.read_bytes(), finished.manifest["size"])
        except (UnidentifiedImageError, ValueError) as error:
            raise ValueError(f"{picture}: is no image that can be read ({type(error).__name__})") from None
        result = denoise_images(denoiser, torch.from_numpy(pixels.copy())[None].to(device), sigma=sigma, seed=seed)
        path = out / f"{picture.stem}.png"
        with whole(path) as partial:
            side_by_side(result).save(partial, format="PNG")
        log(f"{path}: clean, noisy (σ = {sigma:g}), denoised")


def side_by_side(result: Denoised) -> Image.Image:
    """The first image's three versions in a row."""
    panels = [part[0].permute(1, 2, 0).cpu().numpy() for part in result]
    size = len(panels[0])
    sheet = Image.new("RGB", (len(panels) * (size + GAP) - GAP, size), "white")
    for place, panel in enumerate(panels):
        sheet.paste(Image.fromarray(panel), (place * (size + GAP), 0))
    return sheet
