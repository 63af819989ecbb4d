"""Commands that use a trained row: denoise pictures, export the encoder."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ldae.commands.parsing import Parser, Root, nearest
from ldae.commands.shell import completed, scales
from ldae.runtime.process import process_seconds

if TYPE_CHECKING:
    from ldae.study.spec import Features
    from ldae.study.study import Study

GROUP = "a trained row"


def add(root: Root) -> None:
    """Adds these commands."""
    command = root.command(
        GROUP,
        "denoise",
        "add noise to your own pictures and remove it with a trained row",
        about="For each picture, it writes a PNG with the clean, noisy and denoised version side by side.",
        examples="  ldae denoise cat.jpg dog.png --model ldae --out denoised      # a row of the study\n"
        "  ldae denoise *.jpg --model results/laptop/pretrain/pca --sigma 0.2 --out denoised",
    )
    command.set_defaults(action=_denoise)
    command.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help="image files of any format and size")
    model = command.add_argument(
        "--model", required=True, metavar="ROW", help="a row of the study, or the folder of a run"
    )
    completed(model, _rows)
    command.add_argument(
        "--sigma", type=float, default=math.sqrt(1 / 3), metavar="S", help="noise level (default 0.577)"
    )
    command.add_argument("--noise-seed", type=int, default=0, metavar="K", help="seed of the noise (default 0)")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    _of_row(command)

    command = root.command(
        GROUP,
        "export",
        "write a trained encoder as a folder that timm loads",
        about="It folds the conditioning and the tokenizer into a plain Vision Transformer and writes "
        "model.safetensors, config.json and a model card.",
        examples="  ldae export ldae --out encoder           # a row of the study\n"
        "  ldae export results/laptop/pretrain/ldae/seed0 --out encoder",
    )
    command.set_defaults(action=_export)
    completed(command.add_argument("model", metavar="ROW", help="a row of the study, or the folder of a run"), _rows)
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    command.add_argument(
        "--time", type=int, metavar="T", help="the time step to fold in (default: the one that the row is probed at)"
    )
    command.add_argument("--offset", type=int, metavar="B", help="last block to keep, relative to the encoder's last")
    _of_row(command)


def _of_row(command: Parser) -> None:
    """Adds the options that choose a run of a row."""
    scale = command.add_argument(
        "--scale", metavar="NAME", help="with the name of a row: its scale (default: the study's)"
    )
    scale.completer = scales  # type: ignore[attr-defined]
    command.add_argument(
        "--seed", type=int, metavar="K", help="with the name of a row: its seed (default: the study's first)"
    )
    command.add_argument("--study", metavar="FILE", help="with the name of a row: its study (default: config.yaml)")


class ChosenRun(NamedTuple):
    """The run that the command line chooses."""

    folder: Path
    features: Features  # which features of it are probed
    about: dict[str, str]  # facts about its row, for the model card


def _denoise(arguments: argparse.Namespace) -> float:
    """Denoises a user's own pictures; returns when the imports were done."""
    run = _chosen_run(arguments)

    from ldae.parts.loading import find_run
    from ldae.stages.denoise import denoise_pictures

    imported = process_seconds()
    options = {"sigma": arguments.sigma, "seed": arguments.noise_seed, "out": arguments.out}
    denoise_pictures(arguments.pictures, model=find_run(run.folder, seed=arguments.seed), **options)
    return imported


def _rows(study: Study) -> list[str]:
    return list(study.variants)


def _export(arguments: argparse.Namespace) -> float:
    """Exports a row of the study in this folder, or a run by its folder; returns when the imports were done."""
    run = _chosen_run(arguments)
    features = {key: getattr(arguments, key) for key in ("time", "offset") if getattr(arguments, key) is not None}

    from ldae.parts.loading import find_run
    from ldae.stages.export import export

    imported = process_seconds()
    model = find_run(run.folder, seed=arguments.seed)
    export(model, out=arguments.out, features=run.features.model_copy(update=features), about=run.about)
    return imported


def _chosen_run(arguments: argparse.Namespace) -> ChosenRun:
    """The run that `arguments.model` names: a row of the study, a run's folder, or the folder of a row's runs."""
    from ldae.study.spec import Features

    overrides = {key: getattr(arguments, key) for key in ("scale", "study") if getattr(arguments, key) is not None}
    model = Path(arguments.model)
    if model.name == arguments.model and not (model / "run.json").is_file():  # a row may have the name of a folder here
        return _run_of(arguments.model, arguments.seed, overrides)
    if overrides:
        raise ValueError(f"--{next(iter(overrides))}: goes with the name of a row; {model} is a folder already")
    return ChosenRun(model, Features(), {})


def _run_of(row: str, seed: int | None, overrides: dict[str, str]) -> ChosenRun:
    """The run of a row, which must be trained."""
    from ldae.study.checking import StudyError
    from ldae.study.study import Study, project_of

    root = Path(os.path.relpath(project_of(Path.cwd())))
    study = Study.load(root, overrides)
    if row not in study.variants:
        raise StudyError(f"{row!r} is neither a folder nor a row of the study{nearest(row, study.variants)}")
    seed = study.file.seeds[0] if seed is None else seed
    changes, parent = [], study.variants[row].parent
    while parent is not None:
        changes.append(study.variants[parent].label)
        parent = study.variants[parent].parent
    about = {"label": study.variants[row].label}
    if changes:
        about["made from"] = "; ".join(reversed(changes))
    place = study.results / "pretrain" / study.runs[row] / f"seed{seed}"
    folder = root / place
    if not (folder / "run.json").is_file():
        config = " ".join(f"{key}={value}" for key, value in {"scale": study.scale_name, **overrides}.items())
        raise StudyError(
            f"{row!r}, seed {seed}: is not trained yet at scale {study.scale_name} (no {folder}); "
            f"`snakemake --cores all {place}/run.json --config {config}` does it"
        )
    return ChosenRun(folder, study.variants[row].spec.features, about)
