"""Questions about the study in this folder, and the command that runs a part of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ldae.commands.parsing import Parser, Root
from ldae.commands.shell import completed, scales

if TYPE_CHECKING:
    from ldae.study.variants import Study

GROUP = "the study in this folder"
TRACKERS = ("tensorboard", "wandb", "trackio")
QUESTIONS = (
    (
        "plan",
        "what targets would cost: jobs, FLOPs, hours and disk, before anything runs",
        "  ldae plan all --scale gpu            # everything, on one GPU\n"
        "  ldae plan figure5 pca                # a figure and a row",
    ),
    (
        "status",
        "how each training is doing, and the last words of those that failed",
        "  ldae status                          # all of the study\n"
        "  ldae status table3 --seeds 0,1,2     # one table, three seeds",
    ),
    (
        "why",
        "what of targets would run again, and because of which change",
        "  ldae why                             # all of the study\n"
        "  ldae why figure5                     # one figure",
    ),
)


def add(root: Root) -> None:
    """Adds all of them."""
    command = root.command(
        GROUP,
        "list",
        "the rows as a tree, each with its one change; the sweeps; the targets",
        examples="  ldae list\n  ldae list --study tests/study.yaml",
    )
    command.set_defaults(action=_list)
    _of_study(command)
    command = root.command(
        GROUP,
        "show",
        "a row in full: its configuration, what the scale adds, its lineage and its results",
        examples="  ldae show ldae\n  ldae show pca_d8 --scale imagenet   # a point of a sweep",
    )
    command.set_defaults(action=_show)
    completed(command.add_argument("row", metavar="ROW", help="its name"), _rows)
    _of_study(command)
    command = root.command(
        GROUP,
        "diff",
        "the keys in which two rows differ, and the stages that they do not share",
        examples="  ldae diff pca ldae\n  ldae diff mae_l ldae_l --scale imagenet",
    )
    command.set_defaults(action=_diff)
    for place in ("first", "second"):
        completed(command.add_argument(place, metavar=place.upper(), help="the name of a row"), _rows)
    _of_study(command)
    command = root.command(
        GROUP,
        "compare",
        "the rows that two results folders share: two scales, studies, commits or machines",
        examples="  ldae compare results/laptop results/mine\n  ldae compare results/reference results/laptop",
    )
    command.set_defaults(action=_compare)
    for place in ("first", "second"):
        command.add_argument(place, type=Path, metavar=place.upper(), help="a results folder")
    command = root.command(
        GROUP,
        "track",
        "copy the histories of trainings, finished or running, to TensorBoard, W&B or trackio",
        about="Steps that the tracker already has are skipped, so the command can be repeated. TensorBoard's files are "
        "in the results folder's tracking/tensorboard; W&B and trackio read their own environment variables.",
        examples="  ldae track results/laptop --to tensorboard\n"
        "  ldae track results/laptop --to trackio --follow             # until interrupted\n"
        "  WANDB_MODE=offline ldae track results/laptop --to wandb     # for `wandb sync` later",
    )
    command.set_defaults(action=_track)
    command.add_argument("results", type=Path, metavar="RESULTS", help="a results folder")
    command.add_argument("--to", choices=TRACKERS, metavar="NAME", required=True, help=", ".join(TRACKERS))
    command.add_argument("--follow", action="store_true", help="go on with running trainings until interrupted")
    command = root.command(
        GROUP,
        "run",
        "run rows, sweeps or other targets with all that they need, through Snakemake",
        about="A row is run to its probe, and to its fine-tuning and the distance of its samples where it has them.",
        examples="  ldae run ldae                           # one row, on all cores\n"
        "  ldae run pca_d --seeds 0,1,2            # a sweep, three seeds\n"
        "  ldae run table3 -n                      # a table: what would run\n"
        "  ldae run dit --profile slurm --scale imagenet",
    )
    command.set_defaults(action=_run)
    completed(command.add_argument("names", nargs="+", metavar="NAME", help="of rows, sweeps, targets"), _targets)
    command.add_argument("--cores", type=int, metavar="N", help="CPU cores to use (default: all)")
    command.add_argument("--profile", metavar="NAME", help="of Snakemake, e.g. slurm, instead of this machine's cores")
    command.add_argument("-n", "--dry-run", action="store_true", help="only tell what would run")
    _of_study(command)
    for name, text, examples in QUESTIONS:
        command = root.command(GROUP, name, text, examples=examples)
        command.set_defaults(action=_ask, question=name)
        targets = command.add_argument(
            "targets", nargs="*", default=["all"], metavar="TARGET", help="as for snakemake, or rows (default all)"
        )
        completed(targets, _targets)
        _of_study(command)
        if name == "plan":
            command.add_argument(
                "--images", type=int, metavar="N", help="of the training set, where they are not prepared"
            )
            command.add_argument(
                "--jobs", type=int, metavar="N", help="at a time (default: what the cores allow, or 1 GPU)"
            )


def _of_study(command: Parser) -> None:
    """Lets a command look at another scale, other seeds, or another study than this folder's."""
    scale = command.add_argument("--scale", metavar="NAME", help="a file of scales/ (default: the study's)")
    scale.completer = scales  # type: ignore[attr-defined]
    command.add_argument("--seeds", type=_seeds, metavar="LIST", help="e.g. 0,1,2 (default: the study's)")
    command.add_argument("--study", metavar="FILE", help="another study than config.yaml")


def _seeds(text: str) -> str:
    """The list as Snakemake takes it; the brackets, which some shells want quoted, can stay out."""
    try:
        return str([int(word) for word in text.removeprefix("[").removesuffix("]").split(",")])
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, which is no list of numbers; write e.g. 0,1,2") from None


def _given(arguments: argparse.Namespace) -> dict[str, str]:
    """What the command line says of the study."""
    given = {key: getattr(arguments, key) for key in ("scale", "seeds", "study")}
    return {key: value for key, value in given.items() if value is not None}


def _study(arguments: argparse.Namespace) -> Study:
    """The study in this folder or, as git looks for a repository, in one above it; from here on this is the folder."""
    from ldae.study.variants import Study, project_of

    here, root = Path.cwd(), project_of(Path.cwd())
    if root != here:
        if arguments.study is not None:
            arguments.study = os.path.relpath(arguments.study, root)
        os.chdir(root)
        print(f"in {root}", file=sys.stderr)
    return Study.load(Path(), _given(arguments))


def _list(arguments: argparse.Namespace) -> None:
    from ldae.overview.show import listing, say

    say(*listing(_study(arguments)))


def _show(arguments: argparse.Namespace) -> None:
    from ldae.overview.show import say, shown

    say(*shown(_study(arguments), Path(), arguments.row))


def _diff(arguments: argparse.Namespace) -> None:
    from ldae.overview.show import differences, say

    say(*differences(_study(arguments), arguments.first, arguments.second))


def _compare(arguments: argparse.Namespace) -> None:
    from ldae.readers.compare import compare

    print(compare(arguments.first, arguments.second))


def _track(arguments: argparse.Namespace) -> None:
    from ldae.readers.tracking import track

    track(arguments.results, arguments.to, follow=arguments.follow)


def _run(arguments: argparse.Namespace) -> None:
    """Becomes Snakemake, with the code of the study's own folder; `drive` tells what has come of it at the end."""
    from ldae.overview.show import results_for

    where = ["--profile", arguments.profile] if arguments.profile else ["--cores", str(arguments.cores or "all")]
    dry = ["--dry-run"] if arguments.dry_run else []
    targets = results_for(_study(arguments), arguments.names)
    given = _given(arguments)
    config = ["--config", *(f"{key}={value}" for key, value in given.items())] if given else []
    asked = json.dumps({"names": arguments.names, "given": given})
    sys.stdout.flush()
    snakemake = ["--show-failed-logs", *where, *dry, *targets, *config]
    os.execv(sys.executable, [sys.executable, "-m", "ldae.commands.drive", asked, *snakemake])


def _ask(arguments: argparse.Namespace) -> None:
    """Answers what a study costs, where it stands, or what would run again."""
    from ldae.overview.plan import plan
    from ldae.overview.status import status, why

    study, root = _study(arguments), Path()
    if arguments.question == "plan":
        print(plan(study, root, arguments.targets, images=arguments.images, slots=arguments.jobs))
    else:
        print({"status": status, "why": why}[arguments.question](study, root, arguments.targets))


def _rows(study: Study) -> list[str]:
    return list(study.variants)


def _targets(study: Study) -> list[str]:
    common = ["main", "all", "all_tables", "all_figures", "report", "report_main", "claims"]
    return [*common, *study.file.tables, *study.file.figures, *study.sweeps, *study.variants]
