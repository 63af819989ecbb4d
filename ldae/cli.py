"""The command line: `ldae <command> ...`, what a person types and what the rules call."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from ldae.runtime.process import (
    STOPPED,
    Rank,
    Stopped,
    die_with_driver,
    die_with_parent,
    importing,
    launched_by,
    process_seconds,
    stopping,
)
from ldae.runtime.progress import GOES_ON, log
from ldae.runtime.slurm import is_wanted, requeue

if TYPE_CHECKING:
    from ldae.commands.parsing import Root

BROKEN_PIPE = 141  # what a shell says of a program whose reader has gone, e.g. `ldae list | head -1`


def parser() -> Root:
    """The whole command line."""
    from ldae.commands import models, shell, stages, study, views
    from ldae.commands.parsing import Root

    root = Root(
        "ldae",
        description="The deconstruction of diffusion models for self-supervised learning: the study in config.yaml, "
        "row by row, and its graph, stage by stage.",
        epilog="Options and examples of a command: ldae <command> --help. The whole study: README.md.",
    )
    for group in (study, models, shell, stages, views):
        group.add(root)
    return root


def main() -> None:
    """Runs one command; a mistake or a missing file is one line on standard error and a status other than zero."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode shows `?` in the place of an arrow
    try:
        try:
            _answer()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python itself flushes at its end
        sys.exit(BROKEN_PIPE)


def _answer() -> None:
    die_with_driver()
    if launched_by() in ("ldae", "torchrun"):
        die_with_parent()
    with importing():
        from ldae.commands.shell import complete

        root = parser()
        complete(root)
        arguments = root.parse_args()
    try:
        imported = arguments.action(arguments)
        if imported is not None:
            log(f"done in {process_seconds():.1f} s, of which imports took {imported:.1f} s")
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        sys.exit(f"ldae: {' '.join(str(error).split())}")
    except Stopped as stopped:
        if Rank.from_environment().number:
            return  # with status 0: a failure would end rank 0 before it has said, and asked for, what comes next
        log(f"{stopped}; {GOES_ON}")
        if stopping.in_time or is_wanted():
            requeue()
        sys.exit(STOPPED)
    except KeyboardInterrupt:
        sys.exit(1 if Rank.from_environment().number else "ldae: interrupted")


if __name__ == "__main__":
    main()
