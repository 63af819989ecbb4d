"""The stages of the graph as commands: each reads the folders of earlier ones and writes its own."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldae.commands.parsing import Parser, Root
from ldae.runtime.launch import in_ranks
from ldae.runtime.machine import described
from ldae.runtime.process import Rank, importing, keep_memory, process_seconds, stopping
from ldae.runtime.progress import log
from ldae.runtime.slurm import job_seconds, nodes_of_job, submitted_job

if TYPE_CHECKING:
    from ldae.study.base import Config

GROUP = "stages of the graph, which the rules call (snakemake -p prints each as it runs)"
FUNCTIONS = {  # of stages that share a module with another, or whose name is taken: (module, function)
    "probe-pixels": ("probe", "probe_pixels"),
    "adopt-baseline": ("adopt", "adopt_baseline"),
    "reference": ("judge", "reference"),
    "denoise-validation": ("denoise", "denoise"),
}
STAGES = {  # the stage of each command, as lineages name it; a classifier's is its architecture
    "prepare": "dataset",
    "fit-tokenizer": "tokenizer",
    "train-classifier": "classifier",
    "train-tokenizer": "tokenizer",
    "pretrain": "pretrain",
    "pretrain-baseline": "pretrain",
    "adopt": "pretrain",
    "adopt-baseline": "pretrain",
    "probe": "probe",
    "probe-pixels": "probe",
    "finetune": "finetune",
    "sample": "sample",
    "reference": "judge",
    "judge": "judge",
    "denoise-validation": "denoise",
}
DATASET = {"dataset": "the prepared images"}
RESUME = {"resume": "where checkpoints outlive a failed attempt"}
ROW = DATASET | {"tokenizer": "the fitted tokenizer"}
TRAINED = ROW | {"model": "the trained row"}


def add(root: Root) -> None:
    """Adds all of them, in the order in which they run."""
    _stage(root, "prepare", "prepare the images of a data set", "DatasetStage", {}, threads="worker processes")
    _stage(root, "fit-tokenizer", "fit a tokenizer to training patches", "TokenizerStage", DATASET)
    stage = _stage(
        root, "train-classifier", "train a small classifier with labels", "ClassifierStage", DATASET | RESUME
    )
    _resumable(stage)
    text = "train a convolutional tokenizer and cache the training set's latents"
    stage = _stage(root, "train-tokenizer", text, "ConvolutionalStage", DATASET | RESUME)
    _resumable(stage)
    _parallel(stage)
    _recomputing(stage)
    stage.add_argument("--vgg", type=Path, metavar="DIR", help="the classifier whose features measure perception")
    text = "train one row, or go on where its last attempt stopped"
    stage = _stage(root, "pretrain", text, "PretrainStage", ROW | RESUME)
    _resumable(stage)
    _parallel(stage)
    _named(stage, seed=True)
    stage.add_argument("--micro-batch", type=int, metavar="N", help="images a forward pass, at most (default: all)")
    stage = _stage(root, "pretrain-baseline", "train MAE or MoCo v3", "BaselineStage", DATASET | RESUME)
    _resumable(stage)
    _parallel(stage)
    _recomputing(stage)
    _named(stage, seed=True)
    text = "take a published DiT's weights in the place of training"
    _named(_stage(root, "adopt", text, "AdoptStage", ROW), seed=True)
    text = "take an encoder that MAE has trained and published"
    _named(_stage(root, "adopt-baseline", text, "BaselineStage", DATASET), seed=True)
    text = "linear probe and k-NN of a trained row and of its random features"
    stage = _stage(root, "probe", text, "ProbeStage", DATASET | {"model": "the trained row"})
    _named(stage)
    _parallel(stage)
    stage.add_argument("--tokenizer", type=Path, metavar="DIR", help="the fitted tokenizer, for a row that has one")
    text = "fine-tune a trained row with labels, end to end, as a plain Vision Transformer"
    stage = _stage(root, "finetune", text, "FinetuneStage", DATASET | {"model": "the trained row"} | RESUME)
    _resumable(stage)
    _parallel(stage)
    _named(stage)
    stage.add_argument("--tokenizer", type=Path, metavar="DIR", help="the fitted tokenizer, for a row that has one")
    stage.add_argument("--micro-batch", type=int, metavar="N", help="images a forward pass, at most (default: all)")
    _stage(root, "probe-pixels", "the same probe on raw pixels, without a network", "ProbeStage", DATASET)
    stage = _stage(root, "sample", "sample images from a trained row", "SampleStage", TRAINED)
    _named(stage)
    _parallel(stage)
    stage = _stage(root, "reference", "statistics of the true images' features", "JudgeStage", DATASET)
    _judged(stage)
    inputs = {"samples": "a row's samples", "reference": "the true images' statistics"}
    stage = _stage(root, "judge", "the Fréchet distance of samples from true images", "JudgeStage", inputs)
    _judged(stage)
    _named(_stage(root, "denoise-validation", "denoise validation images", "DenoiseStage", TRAINED))


def _stage(
    root: Root, name: str, text: str, model: str, inputs: dict[str, str], *, threads: str = "CPU threads"
) -> Parser:
    """A command that runs the function of its name, with the folders that it reads.

    Args:
        root: where to add it.
        name: of the command; the stage's function has it, with underscores.
        text: what it does.
        model: of its `--spec`, by its name in `ldae.study.stage_specs`.
        inputs: the folders that it reads, and what each of them is.
        threads: what `--threads` counts.
    """
    stage = root.command(GROUP, name, text)
    stage.set_defaults(action=_run, spec_model=model, command=name)
    stage.add_argument("--spec", required=True, metavar="JSON", help="what the stage reads of the row and of the scale")
    stage.add_argument("--revision", type=int, default=1, metavar="N", help="of the stage's code (default 1)")
    stage.add_argument(
        "--lineage", metavar="DIGEST", help="of what the result should be made from (default: unchecked)"
    )
    for folder, what in inputs.items():
        stage.add_argument(f"--{folder}", type=Path, required=True, metavar="DIR", help=what)
    stage.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    stage.add_argument("--threads", type=int, default=1, metavar="N", help=f"{threads} (default 1)")
    return stage


def _resumable(stage: Parser) -> None:
    """Lets a stage write checkpoints."""
    stage.add_argument(
        "--checkpoint-seconds", type=float, default=300.0, metavar="S", help="between checkpoints (default 300)"
    )
    stage.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="the time limit of a job that `snakemake --profile slurm` submitted: saves and stops shortly before it",
    )


def _parallel(stage: Parser) -> None:
    """Lets a stage work in several processes."""
    stage.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="that share each batch, one for a GPU, on all nodes of a Slurm job (default 1)",
    )


def _recomputing(stage: Parser) -> None:
    """Lets a stage that cannot split its batch do with less memory."""
    text = "1: compute activations a second time rather than keep them, slower and in less memory (default 0)"
    stage.add_argument("--recompute", type=int, choices=(0, 1), default=0, metavar="0|1", help=text)


def _judged(stage: Parser) -> None:
    """Tells a stage what judges."""
    stage.add_argument("--judge", type=Path, metavar="DIR", help="the classifier that judges where Inception does not")


def _named(stage: Parser, *, seed: bool = False) -> None:
    """Tells a stage which row, and where it starts a run also which seed."""
    stage.add_argument("--row", required=True, metavar="NAME", help="the row's name, for messages and results")
    if seed:
        stage.add_argument("--seed", type=int, default=0, metavar="K", help="of all its randomness (default 0)")


def _run(arguments: argparse.Namespace) -> float:
    """Runs a stage's function with what the command line says; returns when its imports were done."""
    options = vars(arguments)
    name, model, threads = (options.pop(key) for key in ("command", "spec_model", "threads"))
    stage = _read_spec(model, options.pop("spec"))
    _check_inputs(name, stage, options, options.pop("lineage"))
    limit, processes = options.pop("minutes", None), options.pop("processes", 1)
    if processes > 1 and Rank.from_environment().size == 1:
        in_ranks(processes, threads=threads)
    on_cluster, resumable = submitted_job() is not None, "checkpoint_seconds" in options
    if on_cluster or resumable:
        stopping.watch(limit if on_cluster else None, elapsed=job_seconds())
    del options["action"]
    gc.disable()  # what imports leave is not garbage: without looking for some, a job starts and ends a second faster
    own_threads = max(1, threads // max(1, processes // nodes_of_job()))
    if name != "prepare":
        keep_memory()
        _limit_threads(own_threads)
    own = name.replace("-", "_")
    module, function = FUNCTIONS.get(name, (own, own))
    with importing():
        run = getattr(importlib.import_module(f"ldae.stages.{module}"), function)
    stopping.check("before it began")
    if on_cluster and not resumable:
        stopping.give_up()
    gc.freeze()
    gc.enable()
    imported = process_seconds()
    if not Rank.from_environment().number:
        for line in described(name, processes=Rank.from_environment().size, threads=own_threads):
            log(line)
    if name == "prepare":
        run(stage, **options, workers=threads)
        return imported
    from ldae.runtime import ranks

    with ranks.group():
        run(stage, **options, import_seconds=imported)
    return imported


def _check_inputs(name: str, stage: Config, options: dict[str, Any], expected: str | None) -> None:
    """Refuses results of earlier stages that do not belong together, or that are not those that the study asks for.

    Raises:
        ValueError: in one line.
    """
    from ldae.study.record import INPUTS, common_lineage, digest, lineage

    folders = {key: options[key] for key in INPUTS if options.get(key) is not None}
    before = common_lineage(folders)
    stage_name = getattr(stage, "architecture", None) or STAGES[name]
    if expected not in (None, digest(lineage(stage_name, stage, options["revision"], before))):
        given = ", ".join(map(str, folders.values())) or "no input"
        raise ValueError(
            f"{options['out']}: should be made from other results than {given}; were they, or the study, edited "
            "meanwhile? Start the command again"
        )


def _read_spec(model: str, text: str) -> Config:
    """A stage's specification from its JSON."""
    from pydantic import ValidationError

    from ldae.study import stage_specs

    try:
        stage: Config = getattr(stage_specs, model).model_validate_json(text)
        return stage
    except ValidationError as error:
        mistake = error.errors()[0]
        key = ".".join(map(str, mistake["loc"]))
        raise ValueError(f"--spec: {key}: {mistake['msg']}, found {mistake['input']!r}") from None


def _limit_threads(threads: int) -> None:
    """Sets the number of CPU threads, before any library with a pool of its own is imported."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    with importing():
        import torch

    torch.set_num_threads(threads)
