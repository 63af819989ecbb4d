"""Stage: denoises validation images for figures, and a user's own pictures (paper, Fig. 7 and 8)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ldae.data.prepared import Split, to_float, to_uint8
from ldae.data.sources.pixels import read_picture
from ldae.parts.denoising import Denoised, denoise_images, nearest_level
from ldae.parts.loading import FinishedRun, open_denoiser, open_finished
from ldae.runtime.arrays import save_arrays
from ldae.runtime.device import device_name, pick_device
from ldae.runtime.files import atomic_write, checksums
from ldae.runtime.progress import log
from ldae.study.record import Options, origin_of, provenance
from ldae.study.results import Manifest, PicturesRecord, RunRecord
from ldae.study.stage_specs import DenoiseStage

PANEL = 256  # the side of an enlarged panel, about, in pixels
GAP, LINE, FONT = 8, 28, 15  # pixels between panels, of a line of words, and of its letters


def denoise(stage: DenoiseStage, **options: Unpack[Options]) -> None:
    """Writes `pictures.npz` (clean, noisy, denoised validation images, uint8) and `pictures.json` into `out`."""
    device, dataset, out = pick_device(), options["dataset"], options["out"]
    origin, manifest = origin_of("denoise", stage, options), Manifest.read(dataset / "manifest.json")
    run = RunRecord.read(options["model"] / "run.json")
    denoiser = open_denoiser(options["model"], options["tokenizer"], manifest).to(device)
    val = Split.open(dataset, "val", run.seed)
    spread = np.linspace(0, len(val) - 1, min(stage.num, len(val))).astype(np.int64)  # over all classes
    images = to_float(val.batch(spread, device)[0])
    result = denoise_images(denoiser, images, sigma=stage.sigma).converted(to_uint8)
    save_arrays(out / "pictures.npz", **{name: pixels.cpu().numpy() for name, pixels in result._asdict().items()})
    PicturesRecord(
        row=options["row"],
        sigma=stage.sigma,
        **origin,
        sha256=checksums(out / "pictures.npz"),
        provenance=provenance(device_name(device)),
    ).write(out / "pictures.json")


def denoise_pictures(pictures: list[Path], *, model: Path, sigma: float, seed: int, out: Path) -> None:
    """Writes a labelled PNG for each of a user's pictures: clean, noisy and denoised, side by side.

    The pictures are of any kind and size: the centre is cut out at the size that the row was trained on. `model` is the
    folder of a trained row inside the results of a scale, and `sigma` is that of `denoise_images`.

    Raises:
        ValueError, OSError: in one line, for a file that is not an image, a folder without a trained row, and an output
            that would replace one of the pictures.
    """
    finished, device = open_finished(model), pick_device()
    denoiser, size = finished.denoiser.to(device), finished.manifest.size
    level = nearest_level(denoiser, sigma)[1]
    paths = _outputs(pictures, out)
    about = f"{finished.run.row}, seed {finished.run.seed}, {_training(finished)} of {size} x {size} pixels"
    log(about)
    if abs(level - sigma) > 0.05 * sigma:
        log(f"sigma {sigma:g}: this row's noise schedule has no such level; {level:.3g} is the nearest")
    for picture, path in zip(pictures, paths, strict=True):
        pixels = torch.from_numpy(read_picture(picture, size, finished.white)[None]).to(device)
        result = denoise_images(denoiser, to_float(pixels), sigma=sigma, seed=seed).converted(to_uint8)
        with atomic_write(path) as partial:
            side_by_side(result, f"noisy (sigma {level:.2g})", about).save(partial, format="PNG")
        log(f"{path}: clean, noisy (sigma {level:.2g}), denoised")


def _training(finished: FinishedRun) -> str:
    """How many images a run was trained on, in words."""
    history = finished.folder / "history.csv"
    if not history.is_file():
        return "has published weights for images"
    images = int(history.read_text().strip().rpartition("\n")[2].split(",")[1])
    return f"has seen {images:,} images"


def _outputs(pictures: list[Path], out: Path) -> list[Path]:
    """A path for each picture's result: its name, and a number if two pictures have the same name."""
    inputs = {picture.resolve() for picture in pictures}
    counts: Counter[str] = Counter()
    paths: list[Path] = []
    for picture in pictures:
        counts[picture.stem] += 1
        number = f"-{counts[picture.stem]}" if counts[picture.stem] > 1 else ""
        path = out / f"{picture.stem}{number}.png"
        if path.resolve() in inputs:
            raise ValueError(f"{path}: is one of the pictures, and would be replaced; name another folder with --out")
        paths.append(path)
    return paths


def side_by_side(result: Denoised, noise: str, about: str) -> Image.Image:
    """The first image's three versions in a row, each pixel enlarged to a square.

    The words `noise` are above the noisy version, and `about` is below all.
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
