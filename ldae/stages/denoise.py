"""Stage: what a trained row makes of noisy images, for figures, and of a user's own pictures (paper, Fig. 7 and 8)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ldae.data.prepared import Split, to_float, to_uint8
from ldae.data.sources import Broken
from ldae.data.sources.pixels import draw
from ldae.parts.denoiser import Denoiser
from ldae.parts.loading import Finished, open_denoiser, open_finished
from ldae.runtime.arrays import save_arrays
from ldae.runtime.files import atomic_write, checksums, read_json, write_json
from ldae.runtime.progress import log
from ldae.runtime.randomness import Randomness
from ldae.study.record import inputs_of, lineage, provenance
from ldae.study.stage_specs import DenoiseStage
from ldae.training.loop import device_name, pick_device

DENOISING = 9  # a stream of randomness
PANEL = 256  # the side of an enlarged panel, about, in pixels
GAP, LINE, FONT = 8, 28, 15  # pixels between panels, of a line of words, and of its letters


class Denoised(NamedTuple):
    """Images (N, 3, S, S), uint8."""

    clean: Tensor
    noisy: Tensor  # the noisy latents, decoded
    denoised: Tensor


def nearest_level(denoiser: Denoiser, sigma: float) -> tuple[int, float]:
    """The time step whose noise, where the signal is 1, comes nearest to `sigma`, and how much noise that is."""
    ratios = denoiser.noise.noise / denoiser.noise.signal
    time = int((ratios - sigma).abs().argmin())
    return time, float(ratios[time])


@torch.inference_mode()
def denoise_images(denoiser: Denoiser, images: Tensor, *, sigma: float, seed: int = 0) -> Denoised:
    """Adds noise to the latents of uint8 images (N, 3, S, S), and removes it again.

    Args:
        denoiser: a trained row.
        images: uint8, on its device.
        sigma: standard deviation of the noise where the signal is 1; the nearest level of the row's schedule is taken.
        seed: of the noise.
    """
    time, _ = nearest_level(denoiser, sigma)
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
    save_arrays(out / "pictures.npz", **{name: images.cpu().numpy() for name, images in result._asdict().items()})
    write_json(
        out / "pictures.json",
        {
            "row": row,
            "sigma": stage.sigma,
            "lineage": lineage("denoise", stage, revision, read_json(model / "run.json")["lineage"]),
            "inputs": inputs,
            "sha256": checksums(out / "pictures.npz"),
            "provenance": provenance(device_name(device), import_seconds),
        },
    )


def read_picture(path: Path, size: int, white: float | None) -> Tensor:
    """A person's own picture as uint8 (3, size, size), as `to_pixels` makes it; a `ValueError` names another file."""
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name the pictures in it")
    drawn = draw(path.read_bytes(), size, group=0, name=str(path), white=white)
    if isinstance(drawn, Broken):
        raise ValueError(f"{path}: {drawn.reason}")
    return torch.from_numpy(drawn.pixels.copy())


def denoise_pictures(pictures: list[Path], *, model: Path, sigma: float, seed: int, out: Path) -> None:
    """Writes a labelled PNG for each of a user's pictures: clean, noisy and denoised, side by side.

    Args:
        pictures: image files of any kind and size; the centre is cut out at the size that the row was trained on.
        model: the folder of a trained row, inside the results of a scale.
        sigma: as `denoise_images` takes it.
        seed: of the noise.
        out: the folder to write into.

    Raises:
        ValueError, OSError: in one line, for a file that is not an image, a folder without a trained row, and an output
            that would replace one of the pictures.
    """
    finished, device = open_finished(model), pick_device()
    denoiser, size = finished.denoiser.to(device), finished.manifest["size"]
    level = nearest_level(denoiser, sigma)[1]
    paths = _outputs(pictures, out)
    about = f"{finished.run['row']}, seed {finished.run['seed']}, {_trained(finished)} of {size} x {size} pixels"
    log(about)
    if abs(level - sigma) > 0.05 * sigma:
        log(f"sigma {sigma:g}: this row's noise schedule has no such level; {level:.3g} is the nearest")
    for picture, path in zip(pictures, paths, strict=True):
        images = read_picture(picture, size, finished.white)[None].to(device)
        result = denoise_images(denoiser, images, sigma=sigma, seed=seed)
        with atomic_write(path) as partial:
            side_by_side(result, f"noisy (sigma {level:.2g})", about).save(partial, format="PNG")
        log(f"{path}: clean, noisy (sigma {level:.2g}), denoised")


def _trained(finished: Finished) -> str:
    """How many images a run was trained with, in words."""
    history = finished.folder / "history.csv"
    if not history.is_file():
        return "has published weights for images"
    images = int(history.read_text().strip().rpartition("\n")[2].split(",")[1])
    return f"has seen {images:,} images"


def _outputs(pictures: list[Path], out: Path) -> list[Path]:
    """A path for each picture's result, by its name, and by a number where two have the same."""
    counts: Counter[str] = Counter()
    paths = []
    for picture in pictures:
        counts[picture.stem] += 1
        number = f"-{counts[picture.stem]}" if counts[picture.stem] > 1 else ""
        paths.append(out / f"{picture.stem}{number}.png")
    own = {picture.resolve() for picture in pictures}
    for path in paths:
        if path.resolve() in own:
            raise ValueError(f"{path}: is one of the pictures, and would be replaced; name another folder with --out")
    return paths


def side_by_side(result: Denoised, noise: str, about: str) -> Image.Image:
    """The first image's three versions in a row, each pixel enlarged to a square, with words above and below.

    Args:
        result: whose first image is shown.
        noise: the words above the noisy version.
        about: the words below.
    """
    panels = [Image.fromarray(part[0].permute(1, 2, 0).cpu().numpy()) for part in result]
    side = panels[0].width * max(1, round(PANEL / panels[0].width))
    font = ImageFont.load_default(FONT)
    sheet = Image.new("RGB", (len(panels) * (side + GAP) + GAP, side + 2 * LINE), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (panel, words) in enumerate(zip(panels, ("clean", noise, "denoised"), strict=True)):
        left = GAP + place * (side + GAP)
        pen.text((left, LINE / 2), words, fill="black", font=font, anchor="lm")
        sheet.paste(panel.resize((side, side), Image.Resampling.NEAREST), (left, LINE))
    pen.text((GAP, side + 1.5 * LINE), about, fill="black", font=font, anchor="lm")
    return sheet
