"""The command line `ldae <command> ...`, for users and for the rules of the graph."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from ldae.runtime import process
from ldae.runtime.progress import RESUMABLE, log
from ldae.runtime.slurm import is_running, requeue
from ldae.runtime.stopping import STOPPED, Stopped, stopping

if TYPE_CHECKING:
    from ldae.commands.parsing import Root

BROKEN_PIPE = 141  # the exit status that shells report after SIGPIPE, e.g. in `ldae list | head -1`


def parser() -> Root:
    """The parser of the whole command line."""
    from ldae.commands import models, packs, parsing, stages, study, tuning, views

    root = parsing.Root(
        "ldae",
        description="Asks about the l-DAE study in config.yaml, runs it, and uses its trained encoders.",
        epilog="`ldae <command> --help` shows the options and examples of a command. README.md introduces the study.",
    )
    for group in (study, tuning, packs, models, parsing, stages, views):
        group.add(root)
    return root


def main() -> None:
    """Runs one command; a user's mistake or a missing file is one line on stderr and a non-zero exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode shows `?` instead of an arrow
    try:
        try:
            _run_command()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # because Python flushes stdout when it exits
        sys.exit(BROKEN_PIPE)


def _run_command() -> None:
    """Parses the command line, runs the command, and turns errors and stops into messages and exit statuses."""
    process.die_with_driver()
    if process.launched_by() in ("ldae", "torchrun"):
        process.die_with_parent()
    with process.importing():
        from ldae.commands.parsing import complete

        root = parser()
        complete(root)
        arguments = root.parse_args()
    try:
        arguments.action(arguments)
        if process.imports.seconds:
            log(f"done in {process.process_seconds():.1f} s, of which imports took {process.imports.seconds:.1f} s")
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        sys.exit(f"ldae: {' '.join(str(error).split())}")
    except Stopped as stopped:
        if process.Rank.from_environment().number:
            return  # with status 0: a failing rank would end rank 0 before it has logged and requeued
        log(f"{stopped}; {RESUMABLE}")
        if stopping.in_time or is_running():
            requeue()
        sys.exit(STOPPED)
    except KeyboardInterrupt:
        sys.exit(1 if process.Rank.from_environment().number else "ldae: interrupted")


if __name__ == "__main__":
    main()
