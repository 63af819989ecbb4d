"""Commands that use a trained row: denoise pictures, export the encoder."""

from __future__ import annotations

import argparse
import math
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ldae.commands.parsing import Root, add_scale_and_study, completed, nearest, overrides, rows
from ldae.runtime.process import imports

if TYPE_CHECKING:
    from ldae.study.spec import Features

GROUP = "a trained row"


def add(root: Root) -> None:
    """Adds these commands."""
    command = partial(root.command, GROUP)
    denoise = command(
        "denoise",
        "add noise to your own pictures and remove it with a trained row",
        about="For each picture, it writes a PNG with the clean, noisy and denoised version side by side.",
        examples="  ldae denoise cat.jpg dog.png --model ldae --out denoised      # a row of the study\n"
        "  ldae denoise *.jpg --model results/laptop/pretrain/pca --sigma 0.2 --out denoised",
        action=_denoise,
    )
    text = "a row of the study, or the folder of a run"
    denoise.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help="image files of any format and size")
    completed(denoise.add_argument("--model", required=True, metavar="ROW", help=text), rows)
    sigma = math.sqrt(1 / 3)
    denoise.add_argument("--sigma", type=float, default=sigma, metavar="S", help="noise level (default 0.577)")
    denoise.add_argument("--noise-seed", type=int, default=0, metavar="K", help="seed of the noise (default 0)")
    export = command(
        "export",
        "write a trained encoder as a folder that timm loads",
        about="It folds the conditioning and the tokenizer into a plain Vision Transformer and writes "
        "model.safetensors, config.json and a model card.",
        examples="  ldae export ldae --out encoder           # a row of the study\n"
        "  ldae export results/laptop/pretrain/ldae/seed0 --out encoder",
        action=_export,
    )
    completed(export.add_argument("model", metavar="ROW", help=text), rows)
    text = "the time step to fold in (default: the one that the row is probed at)"
    export.add_argument("--time", type=int, metavar="T", help=text)
    export.add_argument("--offset", type=int, metavar="B", help="last block to keep, relative to the encoder's last")
    for each in (denoise, export):
        each.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
        each.add_argument("--seed", type=int, metavar="K", help="the seed of the run (default: the study's first)")
        add_scale_and_study(each)


class ChosenRun(NamedTuple):
    """The run that the command line chooses."""

    folder: Path
    features: Features  # which features of it are probed
    about: dict[str, str]  # facts about its row, for the model card


def _denoise(arguments: argparse.Namespace) -> None:
    """Denoises a user's own pictures."""
    run = _chosen_run(arguments)

    from ldae.parts.loading import find_run
    from ldae.stages.denoise import denoise_pictures

    imports.mark()
    model, sigma, seed = find_run(run.folder, seed=arguments.seed), arguments.sigma, arguments.noise_seed
    denoise_pictures(arguments.pictures, model=model, sigma=sigma, seed=seed, out=arguments.out)


def _export(arguments: argparse.Namespace) -> None:
    """Exports a row of the study in this folder, or a run by its folder."""
    run = _chosen_run(arguments)
    changed = {key: getattr(arguments, key) for key in ("time", "offset") if getattr(arguments, key) is not None}

    from ldae.parts.loading import find_run
    from ldae.stages.export import export

    imports.mark()
    model = find_run(run.folder, seed=arguments.seed)
    export(model, out=arguments.out, features=run.features.model_copy(update=changed), about=run.about)


def _chosen_run(arguments: argparse.Namespace) -> ChosenRun:
    """The run that `arguments.model` names: a row of the study, a run's folder, or the folder of a row's runs.

    Raises:
        ValueError: for a row that the study does not have, or that is not trained.
    """
    from ldae.study.spec import Features
    from ldae.study.study import Study, project_of

    changed, row, model = overrides(arguments), arguments.model, Path(arguments.model)
    if model.name != row or (model / "run.json").is_file():  # a row may have the name of a folder here
        if changed:
            raise ValueError(f"--{next(iter(changed))}: goes with the name of a row; {model} is a folder already")
        return ChosenRun(model, Features(), {})
    root = Path(os.path.relpath(project_of(Path.cwd())))
    study = Study.load(root, changed)
    if row not in study.variants:
        raise ValueError(f"{row!r} is neither a folder nor a row of the study{nearest(row, study.variants)}")
    seed = study.file.seeds[0] if arguments.seed is None else arguments.seed
    place = study.results / "pretrain" / study.runs[row] / f"seed{seed}"
    if not (root / place / "run.json").is_file():
        config = " ".join(f"{key}={value}" for key, value in {"scale": study.scale_name, **changed}.items())
        raise ValueError(
            f"{row!r}, seed {seed}: is not trained yet at scale {study.scale_name} (no {root / place}); "
            f"`snakemake --cores all {place}/run.json --config {config}` does it"
        )
    variant = study.variants[row]
    changes: list[str] = []
    about = {"label": variant.label}
    while variant.parent is not None:
        variant = study.variants[variant.parent]
        changes.insert(0, variant.label)
    if changes:
        about["made from"] = "; ".join(changes)
    return ChosenRun(root / place, study.variants[row].spec.features, about)
