"""One command per stage of the graph; it reads the folders of earlier stages and writes its own."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ldae.commands.parsing import Parser, Root
from ldae.runtime.launch import spawn_ranks
from ldae.runtime.machine import described, described_workers
from ldae.runtime.process import Rank, importing, imports, keep_memory
from ldae.runtime.progress import log
from ldae.runtime.slurm import job_seconds, nodes_of_job, submitted_job
from ldae.runtime.stopping import stopping
from ldae.study.stages import FOLDERS, STAGES, Stage

if TYPE_CHECKING:
    from ldae.study.base import Config
    from ldae.study.record import Options

GROUP = "stages of the graph, called by the rules (snakemake -p prints each command as it runs)"
FOLDER = {"type": Path, "metavar": "DIR"}
COUNT = {"type": int, "metavar": "N"}
OPTIONS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (  # the word of `Stage.options`, the option, its help
    ("row", "row", "the row's name, for messages and results", {"required": True, "metavar": "NAME"}),
    ("seed", "seed", "random seed (default 0)", {"type": int, "default": 0, "metavar": "K"}),
    ("resume", "resume", "the folder for checkpoints, to resume an interrupted run", FOLDER | {"required": True}),
    ("resume", "checkpoint-seconds", "seconds between checkpoints (default 300)", {"type": float, "metavar": "S"}),
    ("resume", "minutes", "time limit of a Slurm job; saves and stops shortly before it", {"type": float}),
    ("processes", "processes", "processes that share each batch, one per GPU, over all nodes (default 1)", COUNT),
    ("micro_batch", "micro-batch", "most images per forward pass (default 0: the whole batch)", COUNT),
    (
        "recompute",
        "recompute",
        "1: activation checkpointing, which needs less memory",
        {"type": int, "choices": (0, 1)},
    ),
)


def add(root: Root) -> None:
    """Adds these commands, in the order in which they run."""
    for stage in STAGES.values():
        _add_options(root.command(GROUP, stage.command, stage.help, action=_run, stage=stage.name), stage)


def _add_options(command: Parser, stage: Stage) -> None:
    def option(name: str, text: str, **how: Any) -> None:
        command.add_argument(f"--{name}", help=text, **how)

    option("spec", "what the stage reads of the row and the scale, as JSON", required=True, metavar="JSON")
    option("revision", "revision of the stage's code (default 1)", **COUNT, default=1)
    option("lineage", "digest of the expected lineage (default: not checked)", metavar="DIGEST")
    for folder in stage.inputs:
        option(folder, FOLDERS[folder].help, **FOLDER, required=not FOLDERS[folder].is_optional)
    option("out", "where to write", **FOLDER, required=True)
    threads = "worker processes" if stage.name == "dataset" else "CPU threads"
    option("threads", f"{threads} (default 1)", **COUNT, default=1)
    for word, name, text, how in OPTIONS:
        if word in stage.options:
            option(name, text, **how)


def _run(arguments: argparse.Namespace) -> None:
    """Runs a stage's function with the options of the command line."""
    options = vars(arguments)
    del options["action"], options["command"]
    stage = STAGES[options.pop("stage")]
    threads, limit, processes = (
        options.pop("threads"),
        options.pop("minutes", None),
        options.pop("processes", None) or 1,
    )
    spec = _read_spec(stage, options.pop("spec"))
    _check_inputs(stage, spec, options, options.pop("lineage"))
    copies = getattr(spec, "weights", None) is not None  # published weights, which is no work for a GPU or to share
    processes = 1 if copies else processes
    if processes > 1 and Rank.from_environment().size == 1:
        spawn_ranks(processes, threads=threads)
    on_cluster, resumable = submitted_job() is not None, "resume" in stage.options
    if on_cluster or resumable:
        stopping.watch(limit if on_cluster else None, elapsed=job_seconds())
    gc.disable()  # imports leave no garbage; not collecting any saves a second at the start and end of a job
    own_threads = max(1, threads // max(1, processes // nodes_of_job()))
    computes = stage.name != "dataset"  # the images are prepared by worker processes without torch
    if computes:
        keep_memory()
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(own_threads)  # before their libraries load
        with importing():
            import torch
        torch.set_num_threads(own_threads)
    module, name = stage.function.split(".")
    with importing():
        run = getattr(importlib.import_module(f"ldae.stages.{module}"), name)
    stopping.check("before it began")
    if on_cluster and not resumable:
        stopping.give_up()
    gc.freeze()
    gc.enable()
    imports.mark()
    if not Rank.from_environment().number:
        size, needs_gpu = Rank.from_environment().size, stage.on_gpu and not copies
        described_by_torch = described(stage.precision, needs_gpu=needs_gpu, processes=size, threads=own_threads)
        for line in described_by_torch if computes else [described_workers(threads)]:
            log(line)
    options = {key: value for key, value in options.items() if value is not None}
    if not computes:
        run(spec, **options, workers=threads)
        return
    from ldae.runtime import ranks

    with ranks.group():
        run(spec, **options)


def _check_inputs(stage: Stage, spec: Config, options: dict[str, Any], expected: str | None) -> None:
    """Refuses results of earlier stages that do not belong together or do not have the expected lineage.

    Raises:
        ValueError: in one line.
    """
    from ldae.study.record import digest, origin_of

    origin = origin_of(stage.lineage_key(spec), spec, cast("Options", options))
    if expected not in (None, digest(origin["lineage"])):
        inputs = ", ".join(str(options[name]) for name in origin["inputs"]) or "no input"
        raise ValueError(
            f"{options['out']}: its lineage does not match {inputs}; were they, or the study, edited meanwhile? "
            "Start the command again"
        )


def _read_spec(stage: Stage, text: str) -> Config:
    """Parses what a stage reads of the row and the scale."""
    from pydantic import ValidationError

    from ldae.study import stage_specs

    errors: list[ValidationError] = []
    for name in stage.specs:
        try:
            spec: Config = getattr(stage_specs, name).model_validate_json(text)
            return spec
        except ValidationError as error:
            errors.append(error)
    mistake = errors[0].errors()[0]
    key = ".".join(map(str, mistake["loc"]))
    raise ValueError(f"--spec: {key}: {mistake['msg']}, found {mistake['input']!r}")
