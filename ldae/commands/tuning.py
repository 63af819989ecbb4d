"""`ldae tune`: finds the learning rate of each row, a run of Snakemake at a time.

It is a command and no target, because Snakemake plans a run before it starts, and here results decide what comes next.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ldae.commands.parsing import Root, add_scale_and_study, completed
from ldae.commands.study import GROUP, add_run_options, load_study, run_snakemake

if TYPE_CHECKING:
    from ldae.study.study import Study


def add(root: Root) -> None:
    """Adds this command."""
    tune = root.command(
        GROUP,
        "tune",
        "find the learning rate of each row, and write scales/<scale>.rates.yaml",
        about="Each row is trained at five rates a factor of 2 apart, and at further ones while the best is at an "
        "edge. Two replications that stand in no table are for this alone, and held-out training images choose. "
        "Convolutional tokenizers come first. If it is interrupted, repeat the command: it continues from the results "
        "that it finds.",
        examples="  ldae tune                            # all rows that are trained, and their tokenizers\n"
        "  ldae tune pca ldae                   # two rows; the others keep their entries\n"
        "  ldae tune pca_d conv-16              # the rows of a sweep, and a tokenizer\n"
        "  ldae tune --profile slurm --scale gpu",
        action=_tune,
    )
    text = "rows, sweeps or convolutional tokenizers (default: all)"
    completed(tune.add_argument("names", nargs="*", metavar="NAME", help=text), _tunable)
    add_run_options(tune)
    add_scale_and_study(tune)
    tune.add_argument("--since", type=float, help=argparse.SUPPRESS)  # when its first run started


def _tune(arguments: argparse.Namespace) -> None:
    """Replaces this process by the next run; that one ends with this command again, until nothing is left to run."""
    from ldae.readers.tuning import finish, progress

    study = load_study(arguments)
    now = progress(study, Path(), arguments.names, since=arguments.since)
    if not now.left:
        print(finish(study, Path(), now))
        return
    print(f"{len(now.left)} more results are needed for the rates of scale {study.scale_name}", file=sys.stderr)
    again = ["tune", *arguments.names, "--scale", study.scale_name, "--since", str(arguments.since or time.time())]
    for option in ("study", "cores", "profile"):
        if (value := getattr(arguments, option)) is not None:
            again += [f"--{option}", str(value)]
    run_snakemake(
        arguments,
        [str(job.record) for job in now.left],
        {"scale": study.scale_name, "study": str(now.file)},
        names=now.sweeps,
        options=["--keep-going"],  # a rate at which training diverges stops no other
        again=again,
    )


def _tunable(study: Study) -> list[str]:
    from ldae.study.tuning import subjects

    return [subject.name for subject in subjects(study)]
