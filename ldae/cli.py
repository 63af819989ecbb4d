"""The command line: `ldae <stage> ...`, what the rules call and what a person pastes into a terminal."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ldae import spec
from ldae.checking import StudyError
from ldae.launch import in_ranks
from ldae.process import (
    STOPPED,
    Rank,
    Stopped,
    die_with_driver,
    die_with_parent,
    is_wanted,
    nodes_of_job,
    process_seconds,
    requeue,
    stopping,
)
from ldae.progress import log

FUNCTIONS = {  # of stages that share a module with another, or whose name is taken: (module, function)
    "probe-pixels": ("probe", "probe_pixels"),
    "reference": ("judge", "reference"),
    "denoise-validation": ("denoise", "denoise"),
}
RESUME = {"resume": "where checkpoints outlive a failed attempt"}
VIEW_FILES = {
    "dataset": "manifest.json of the prepared images",
    "pixels": "probe.json of raw pixels",
    "probes": "probe.json of the rows",
    "distances": "distance.json of the rows",
    "histories": "history.csv of the rows",
    "pictures": "pictures.npz of the rows",
    "samples": "samples.npy of the rows",
    "tokenizers": "fits or records of tokenizers",
}


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage above it."""

    def error(self, message: str) -> Any:
        """Ends the process with status 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class _Help(argparse.HelpFormatter):
    """Room for the names of all stages in the left column."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    root = OneLineParser(
        prog="ldae",
        description="The deconstruction of diffusion models for self-supervised learning. Each command is one stage of "
        "the graph: it reads the folders of earlier stages and writes its own. Snakemake chains them; `snakemake -p` "
        "prints every command, ready to be pasted into a terminal.",
        epilog="Examples and the whole study: see README.md. Options of a stage: ldae <stage> --help.",
        formatter_class=_Help,
    )
    commands = root.add_subparsers(title="stages", metavar="<stage>", required=True)

    dataset = {"dataset": "the prepared images"}
    row = dataset | {"tokenizer": "the fitted tokenizer"}
    trained = row | {"model": "the trained row"}
    _stage(commands, "prepare", "prepare the images of a data set", spec.DatasetStage, {}, threads="worker processes")
    _stage(commands, "fit-tokenizer", "fit a tokenizer to training patches", spec.TokenizerStage, dataset)
    stage = _stage(
        commands, "train-classifier", "train a small classifier with labels", spec.ClassifierStage, dataset | RESUME
    )
    _resumable(stage)
    stage = _stage(
        commands,
        "train-tokenizer",
        "train a convolutional tokenizer and cache the training set's latents",
        spec.ConvolutionalStage,
        dataset | RESUME,
    )
    _resumable(stage)
    _parallel(stage)
    stage.add_argument("--vgg", type=Path, metavar="DIR", help="the classifier whose features measure perception")
    stage = _stage(
        commands, "pretrain", "train one row, or go on where its last attempt stopped", spec.PretrainStage, row | RESUME
    )
    _resumable(stage)
    _parallel(stage)
    _named(stage, seed=True)
    stage.add_argument("--micro-batch", type=int, metavar="N", help="images a forward pass, at most (default: all)")
    stage = _stage(commands, "pretrain-baseline", "train MAE or MoCo v3", spec.BaselineStage, dataset | RESUME)
    _resumable(stage)
    _parallel(stage)
    _named(stage, seed=True)
    stage = _stage(
        commands,
        "probe",
        "linear probe and k-NN of a trained row and of its random features",
        spec.ProbeStage,
        dataset | {"model": "the trained row"},
    )
    _named(stage)
    _parallel(stage)
    stage.add_argument("--tokenizer", type=Path, metavar="DIR", help="the fitted tokenizer, for a row that has one")
    _stage(commands, "probe-pixels", "the same probe on raw pixels, without a network", spec.ProbeStage, dataset)
    stage = _stage(commands, "sample", "sample images from a trained row", spec.SampleStage, trained)
    _named(stage)
    _parallel(stage)
    stage = _stage(commands, "reference", "statistics of the true images' features", spec.JudgeStage, dataset)
    _judged(stage)
    stage = _stage(
        commands,
        "judge",
        "the Fréchet distance of samples from true images",
        spec.JudgeStage,
        {"samples": "a row's samples", "reference": "the true images' statistics"},
    )
    _judged(stage)
    _named(_stage(commands, "denoise-validation", "denoise validation images", spec.DenoiseStage, trained))

    for name in ("table", "figure", "claims"):
        view = commands.add_parser(
            name, help=f"write {'the ' if name == 'claims' else 'a '}{name} from results", formatter_class=_Help
        )
        view.set_defaults(action=_write_view, view=name)
        view.add_argument("--definition", type=json.loads, required=True, metavar="JSON", help="its rows and labels")
        for option, what in VIEW_FILES.items():
            view.add_argument(f"--{option}", type=Path, nargs="*", default=[], metavar="FILE", help=what)
        view.add_argument("--out", type=Path, required=True, metavar="PATH", help="path of the files, without ending")

    cost = commands.add_parser("cost", help="add up what the runs have cost", description="Adds up seconds and memory.")
    cost.set_defaults(action=_write_cost)
    cost.add_argument("--results", type=Path, nargs="+", required=True, metavar="JSON", help="result files")
    cost.add_argument("--out", type=Path, required=True, metavar="PATH", help="path of the files, without ending")

    for name, text, example in (
        ("plan", "what targets would cost: jobs, FLOPs, hours and disk, before anything runs", "plan all --scale gpu"),
        ("status", "how each training is doing, and the last words of those that failed", "status"),
        ("why", "what of targets would run again, and because of which change", "why figure5"),
    ):
        asked = commands.add_parser(
            name,
            help=text,
            description=f"Tells {text}.",
            epilog=f"Example: ldae {example}",
            formatter_class=_Help,
        )
        asked.set_defaults(action=_ask, question=name)
        asked.add_argument(
            "targets", nargs="*", default=["all"], metavar="TARGET", help="as for snakemake (default all)"
        )
        asked.add_argument("--scale", metavar="NAME", help="a file of scales/ (default: the study's)")
        asked.add_argument("--seeds", metavar="LIST", help="e.g. [0,1,2] (default: the study's)")
        asked.add_argument("--study", metavar="FILE", help="another study than config.yaml")
        if name == "plan":
            asked.add_argument(
                "--images", type=int, metavar="N", help="of the training set, where they are not prepared"
            )
            asked.add_argument(
                "--jobs", type=int, metavar="N", help="at a time (default: what the cores allow, or 1 GPU)"
            )

    own = commands.add_parser(
        "denoise",
        help="add noise to your own pictures and let a trained row remove it",
        description="Writes, for each picture, a PNG with its clean, noisy and denoised version side by side.",
        epilog="Example: ldae denoise cat.jpg --model results/laptop/pretrain/ldae/seed0 --out denoised",
    )
    own.set_defaults(action=_denoise_pictures)
    own.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help="image files of any kind and size")
    own.add_argument("--model", type=Path, required=True, metavar="DIR", help="a trained row in a results folder")
    own.add_argument("--sigma", type=float, default=math.sqrt(1 / 3), metavar="S", help="noise level (default 0.577)")
    own.add_argument("--seed", type=int, default=0, metavar="K", help="of the noise (default 0)")
    own.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    return root


def _resumable(stage: argparse.ArgumentParser) -> None:
    """Lets a stage write checkpoints."""
    stage.add_argument(
        "--checkpoint-seconds", type=float, default=300.0, metavar="S", help="between checkpoints (default 300)"
    )
    stage.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="a cluster job's time limit: saves and stops shortly before it",
    )


def _parallel(stage: argparse.ArgumentParser) -> None:
    """Lets a stage work in several processes."""
    stage.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="that share each batch, one for a GPU, on all nodes of a Slurm job (default 1)",
    )


def _judged(stage: argparse.ArgumentParser) -> None:
    """Tells a stage what judges."""
    stage.add_argument("--judge", type=Path, metavar="DIR", help="the classifier that judges where Inception does not")


def _named(stage: argparse.ArgumentParser, *, seed: bool = False) -> None:
    """Tells a stage which row, and where it starts a run also which seed."""
    stage.add_argument("--row", required=True, metavar="NAME", help="the row's name, for messages and results")
    if seed:
        stage.add_argument("--seed", type=int, default=0, metavar="K", help="of all its randomness (default 0)")


def _stage(
    commands: Any, name: str, text: str, model: type[spec.Part], inputs: dict[str, str], *, threads: str = "CPU threads"
) -> argparse.ArgumentParser:
    """A command that runs the function of its name, with the folders that it reads.

    Args:
        commands: where to add it.
        name: of the command; the stage's function has it, with underscores.
        text: what it does.
        model: of its `--spec`.
        inputs: the folders that it reads, and what each of them is.
        threads: what `--threads` counts.
    """
    stage: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", formatter_class=_Help
    )
    stage.set_defaults(action=_run_stage, spec_model=model, command=name)
    stage.add_argument("--spec", required=True, metavar="JSON", help="what the stage reads of the row and of the scale")
    stage.add_argument("--revision", type=int, default=1, metavar="N", help="of the stage's code (default 1)")
    for folder, what in inputs.items():
        stage.add_argument(f"--{folder}", type=Path, required=True, metavar="DIR", help=what)
    stage.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    stage.add_argument("--threads", type=int, default=1, metavar="N", help=f"{threads} (default 1)")
    return stage


def _run_stage(arguments: argparse.Namespace) -> float:
    """Runs a stage's function with what the command line says; returns when its imports were done."""
    options = vars(arguments)
    name, spec_model, threads = (options.pop(key) for key in ("command", "spec_model", "threads"))
    stage = spec_model.model_validate_json(options.pop("spec"))
    limit, processes = options.pop("minutes", None), options.pop("processes", 1)
    if processes > 1 and Rank.from_environment().size == 1:
        in_ranks(processes, threads=threads)
    on_cluster = "SLURM_JOB_ID" in os.environ
    if "checkpoint_seconds" in options:
        stopping.watch(limit if on_cluster else None)
    elif on_cluster:
        stopping.give_up()
    del options["action"]
    if name != "prepare":
        _limit_threads(max(1, threads // max(1, processes // nodes_of_job())))
    own = name.replace("-", "_")
    module, function = FUNCTIONS.get(name, (own, own))
    run = getattr(importlib.import_module(f"ldae.{module}"), function)
    imported = process_seconds()
    if name == "prepare":
        run(stage, **options, workers=threads)
        return imported
    from ldae import ranks

    with ranks.group():
        run(stage, **options, import_seconds=imported)
    return imported


def _write_view(arguments: argparse.Namespace) -> float:
    """Writes a table, a figure or the claims; returns when the imports were done."""
    from ldae.results import collect

    shown, given = arguments.definition, {name: getattr(arguments, name) for name in VIEW_FILES}
    results = None
    if given["probes"]:
        (dataset,), (pixels,) = given["dataset"], given["pixels"]
        results = collect(shown, dataset=dataset, probes=given["probes"], pixels=pixels, distances=given["distances"])
    if arguments.view == "figure":
        from ldae.figures import Inputs, write_figure

        imported = process_seconds()
        kinds = ("histories", "pictures", "samples", "tokenizers")
        inputs = Inputs(results, **{kind: given[kind] for kind in kinds}, schedules=_signal_powers(shown))
        write_figure(shown, inputs, out=arguments.out)
        return imported
    if results is None:
        raise ValueError(f"{arguments.view}: names no --probes")
    if arguments.view == "table":
        from ldae.tables import write_table

        imported = process_seconds()
        write_table(shown, results, tokenizers=given["tokenizers"], out=arguments.out)
    else:
        from ldae.claims import write_claims

        imported = process_seconds()
        write_claims(shown, results, out=arguments.out)
    return imported


def _signal_powers(shown: dict[str, Any]) -> dict[str, Any]:
    """The signal's power under each noise schedule that a figure shows: figures themselves are drawn without torch."""
    if "schedules" not in shown:
        return {}
    from ldae.noise import SCHEDULES

    return {label: SCHEDULES[name](1.0).signal.square().numpy() for label, name in shown["schedules"].items()}


def _ask(arguments: argparse.Namespace) -> None:
    """Answers a question about the study in this folder."""
    from ldae.plan import plan
    from ldae.status import status, why
    from ldae.variants import Study

    root = Path.cwd()
    given = {key: getattr(arguments, key) for key in ("scale", "seeds", "study")}
    study = Study.load(root, {key: value for key, value in given.items() if value is not None})
    if arguments.question == "plan":
        print(plan(study, root, arguments.targets, images=arguments.images, slots=arguments.jobs))
    else:
        print({"status": status, "why": why}[arguments.question](study, root, arguments.targets))


def _denoise_pictures(arguments: argparse.Namespace) -> float:
    """Denoises a user's own pictures; returns when the imports were done."""
    from ldae.denoise import denoise_pictures

    imported = process_seconds()
    options = {name: getattr(arguments, name) for name in ("model", "sigma", "seed", "out")}
    denoise_pictures(arguments.pictures, **options)
    return imported


def _write_cost(arguments: argparse.Namespace) -> float:
    """Adds up the cost; returns when the imports were done."""
    from ldae.tables import write_cost

    imported = process_seconds()
    write_cost(arguments.results, out=arguments.out)
    return imported


def _limit_threads(threads: int) -> None:
    """Sets the number of CPU threads, before any library with a pool of its own is imported."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def main() -> None:
    """Runs one stage; a mistake or a missing file is one line on standard error and a status other than zero."""
    die_with_driver()
    if "LOCAL_RANK" in os.environ:
        die_with_parent()
    arguments = parser().parse_args()
    try:
        imported = arguments.action(arguments)
        if imported is not None:
            log(f"done in {process_seconds():.1f} s, of which imports took {imported:.1f} s")
    except ValidationError as error:
        mistake = error.errors()[0]
        sys.exit(f"ldae: --spec: {'.'.join(map(str, mistake['loc']))}: {mistake['msg']}, found {mistake['input']!r}")
    except (StudyError, ValueError, OSError) as error:
        sys.exit(f"ldae: {error}")
    except Stopped as stopped:
        if Rank.from_environment().number:
            return  # with status 0: a failure would end rank 0 before it has said, and asked for, what comes next
        log(f"{stopped}; started again, it goes on there")
        if stopping.in_time or is_wanted():
            requeue()
        sys.exit(STOPPED)
    except KeyboardInterrupt:
        sys.exit(1 if Rank.from_environment().number else "ldae: interrupted")


if __name__ == "__main__":
    main()
