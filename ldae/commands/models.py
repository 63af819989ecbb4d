"""What a person does with a trained row: commands over its folder."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from ldae.commands.parsing import Root
from ldae.process import process_seconds

GROUP = "a trained row"


def add(root: Root) -> None:
    """Adds all of them."""
    own = root.command(
        GROUP,
        "denoise",
        "add noise to your own pictures and let a trained row remove it",
        about="Writes, for each picture, a PNG with its clean, noisy and denoised version side by side.",
        examples="  ldae denoise cat.jpg dog.png --model results/laptop/pretrain/ldae/seed0 --out denoised\n"
        "  ldae denoise *.jpg --model results/laptop/pretrain/pca/seed0 --sigma 0.2 --out denoised",
    )
    own.set_defaults(action=_denoise)
    own.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help="image files of any kind and size")
    own.add_argument("--model", type=Path, required=True, metavar="DIR", help="a trained row in a results folder")
    own.add_argument("--sigma", type=float, default=math.sqrt(1 / 3), metavar="S", help="noise level (default 0.577)")
    own.add_argument("--seed", type=int, default=0, metavar="K", help="of the noise (default 0)")
    own.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")


def _denoise(arguments: argparse.Namespace) -> float:
    """Denoises a user's own pictures; returns when the imports were done."""
    from ldae.denoise import denoise_pictures

    imported = process_seconds()
    options = {name: getattr(arguments, name) for name in ("model", "sigma", "seed", "out")}
    denoise_pictures(arguments.pictures, **options)
    return imported
