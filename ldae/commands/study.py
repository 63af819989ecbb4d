"""Commands that ask about the study in this folder, and `ldae run`, which runs a part of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ldae.commands.parsing import Parser, Root, add_scale_and_study, completed, overrides, rows

if TYPE_CHECKING:
    from ldae.study.study import Study

GROUP = "the study in this folder"
TRACKERS = ("tensorboard", "wandb", "trackio")


def add(root: Root) -> None:
    """Adds these commands."""
    command = partial(root.command, GROUP)
    listing = command(
        "list",
        "list the rows as a tree, each with its one change; the sweeps; the targets",
        examples="  ldae list\n  ldae list --study tests/study.yaml",
        action=_ask,
    )
    show = command(
        "show",
        "show a row in full: its configuration, what the scale adds, its lineage and its results",
        examples="  ldae show ldae\n  ldae show pca_d8 --scale imagenet   # one value of a sweep",
        action=_ask,
    )
    completed(show.add_argument("row", metavar="ROW", help="the name of the row"), rows)
    diff = command(
        "diff",
        "show the keys in which two rows differ, and the stages that they do not share",
        examples="  ldae diff pca ldae\n  ldae diff mae_l ldae_l --scale imagenet",
        action=_ask,
    )
    compare = command(
        "compare",
        "compare two results folders row by row: two scales, studies, commits or machines",
        examples="  ldae compare results/laptop results/mine\n  ldae compare results/reference results/laptop",
        action=_compare,
    )
    for place in ("first", "second"):
        completed(diff.add_argument(place, metavar=place.upper(), help="the name of a row"), rows)
        compare.add_argument(place, type=Path, metavar=place.upper(), help="a results folder")
    track = command(
        "track",
        "copy the histories of trainings, finished or running, to TensorBoard, W&B or trackio",
        about="Steps that the tracker already has are skipped, so the command can be repeated. TensorBoard's files are "
        "in the results folder's tracking/tensorboard; W&B and trackio read their own environment variables.",
        examples="  ldae track results/laptop --to tensorboard\n"
        "  ldae track results/laptop --to trackio --follow             # until interrupted\n"
        "  WANDB_MODE=offline ldae track results/laptop --to wandb     # for `wandb sync` later",
        action=_track,
    )
    track.add_argument("results", type=Path, metavar="RESULTS", help="a results folder")
    track.add_argument("--to", choices=TRACKERS, metavar="NAME", required=True, help=", ".join(TRACKERS))
    track.add_argument("--follow", action="store_true", help="go on with running trainings until interrupted")
    run = command(
        "run",
        "run rows, sweeps or other targets, and everything that they need, with Snakemake",
        about="A row is trained and probed; if it has fine-tuning or an FID, also fine-tuned or sampled and judged.",
        examples="  ldae run ldae                           # one row, on all cores\n"
        "  ldae run pca_d --seeds 0,1,2            # a sweep, three seeds\n"
        "  ldae run table3 -n                      # a dry run: what a table needs\n"
        "  ldae run dit --profile slurm --scale imagenet",
        action=_run,
    )
    completed(run.add_argument("names", nargs="+", metavar="NAME", help="rows, sweeps or targets"), _targets)
    add_run_options(run)
    plan = command(
        "plan",
        "estimate what targets cost: jobs, FLOPs, hours and disk space, before anything runs",
        examples="  ldae plan all --scale gpu            # everything, on one GPU\n"
        "  ldae plan figure5 pca                # a figure and a row",
        action=_ask,
    )
    plan.add_argument("--images", type=int, metavar="N", help="size of the training set, if it is not prepared yet")
    plan.add_argument("--jobs", type=int, metavar="N", help="jobs at a time (default: as many as cores or GPUs allow)")
    status = command(
        "status",
        "show the progress of each training, and the last log line of each failed job",
        examples="  ldae status                          # all of the study\n"
        "  ldae status table3 --seeds 0,1,2     # one table, three seeds",
        action=_ask,
    )
    why = command(
        "why",
        "show what would run again, and which change is the reason",
        examples="  ldae why                             # all of the study\n"
        "  ldae why figure5                     # one figure",
        action=_ask,
    )
    power = command(
        "power",
        "show how many seeds each claim takes, from the spread of the seeds that there are",
        examples="  ldae power                           # all claims\n"
        "  ldae power ldae_matches --seeds 0,1,2,3   # one claim, from four seeds",
        action=_ask,
    )
    text = "claims (default: all)"
    completed(power.add_argument("claims", nargs="*", default=[], metavar="CLAIM", help=text), _claims)
    text = "targets, sweeps or rows (default: all)"
    for asked in (plan, status, why):
        completed(asked.add_argument("targets", nargs="*", default=["all"], metavar="TARGET", help=text), _targets)
    for of_study in (listing, show, diff, run, plan, status, why, power):
        add_scale_and_study(of_study)
        of_study.add_argument("--seeds", type=_seeds, metavar="LIST", help="seeds, e.g. 0,1,2 (default: the study's)")


def add_run_options(command: Parser) -> None:
    """Adds the options of a command that runs Snakemake."""
    command.add_argument("--cores", type=int, metavar="N", help="CPU cores to use (default: all)")
    command.add_argument("--profile", metavar="NAME", help="a Snakemake profile, e.g. slurm, instead of --cores")
    command.add_argument("-n", "--dry-run", action="store_true", help="only show what would run")


def _seeds(text: str) -> str:
    """A list of seeds in Snakemake's syntax; brackets are optional, because some shells need them quoted."""
    try:
        return str([int(word) for word in text.removeprefix("[").removesuffix("]").split(",")])
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a list of numbers, e.g. 0,1,2") from None


def load_study(arguments: argparse.Namespace) -> Study:
    """Loads the study in this folder or, as git does, in the nearest folder above it, and changes to that folder."""
    from ldae.study.study import Study, project_of

    here, root = Path.cwd(), project_of(Path.cwd())
    if root != here:
        if arguments.study is not None:
            arguments.study = os.path.relpath(arguments.study, root)
        os.chdir(root)
        print(f"in {root}", file=sys.stderr)
    return Study.load(Path(), overrides(arguments))


def _ask(arguments: argparse.Namespace) -> None:
    """Prints the answer to a question about the study."""
    from ldae.overview.plan import plan
    from ldae.overview.show import differences, listing, row_in_full, say
    from ldae.overview.status import status, why

    study, root = load_study(arguments), Path()
    match arguments.command:
        case "list":
            say(*listing(study))
        case "show":
            say(*row_in_full(study, root, arguments.row))
        case "diff":
            say(*differences(study, arguments.first, arguments.second))
        case "plan":
            print(plan(study, root, arguments.targets, images=arguments.images, slots=arguments.jobs))
        case "status":
            print(status(study, root, arguments.targets))
        case "why":
            print(why(study, root, arguments.targets))
        case "power":
            from ldae.readers.power import power

            print(power(study, root, arguments.claims))


def _compare(arguments: argparse.Namespace) -> None:
    from ldae.readers.compare import compare

    print(compare(arguments.first, arguments.second))


def _track(arguments: argparse.Namespace) -> None:
    from ldae.readers.tracking import track

    track(arguments.results, arguments.to, follow=arguments.follow)


def _run(arguments: argparse.Namespace) -> None:
    """Runs Snakemake and prints the results at the end."""
    from ldae.overview.show import results_for

    study = load_study(arguments)
    settings = {"scale": study.scale_name} | overrides(arguments)  # a profile may set another scale
    run_snakemake(arguments, results_for(study, arguments.names), settings, names=arguments.names)


def run_snakemake(
    arguments: argparse.Namespace,
    targets: list[str],
    settings: dict[str, str],
    *,
    names: list[str],
    options: Sequence[str] = (),
    again: Sequence[str] = (),
) -> NoReturn:
    """Replaces this process by `drive`, which runs Snakemake.

    Args:
        arguments: of the command, with the options of `add_run_options`.
        targets: of Snakemake.
        settings: of the study, which the command line overrides.
        names: of the rows and other targets whose results, or failed jobs, are printed at the end.
        options: more words for Snakemake.
        again: the words of the `ldae` command that follows a run, instead of the results.
    """
    where = ["--profile", arguments.profile] if arguments.profile else ["--cores", str(arguments.cores or "all")]
    dry = ["--dry-run"] if arguments.dry_run else []
    config = ["--config", *(f"{key}={value}" for key, value in settings.items())]
    request = json.dumps({"names": names, "overrides": settings, "targets": targets, "again": list(again)})
    sys.stdout.flush()
    snakemake = ["--show-failed-logs", *options, *where, *dry, *targets, *config]
    os.execv(sys.executable, [sys.executable, "-m", "ldae.commands.drive", request, *snakemake])


def _claims(study: Study) -> list[str]:
    return list(study.file.claims)


def _targets(study: Study) -> list[str]:
    common = ["main", "all", "all_tables", "all_figures", "report", "report_main", "claims"]
    common += [f"claims_{name}" for name in study.variations]
    return [*common, *study.file.tables, *study.file.figures, *study.sweeps, *study.variants]
