"""`python -m ldae.commands.drive`, for `ldae run`: runs Snakemake, then prints its results; no torch.

Snakemake runs inside this process, so that it receives signals as if a user had started it. This process exits with
Snakemake's status.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from pathlib import Path


def main() -> None:
    """Runs Snakemake and prints its results.

    The first argument is a request as JSON: the `names` of rows and other targets, the study's settings that the
    command line overrides (`overrides`), and the words of the `ldae` command that follows instead of the results
    (`again`); that one also follows if trainings of the `targets` have diverged and nothing else has failed. The other
    arguments are passed to Snakemake.
    """
    request, started, environment = json.loads(sys.argv[1]), time.time(), dict(os.environ)
    sys.argv = ["snakemake", *sys.argv[2:]]
    try:
        status = _snakemake()
        if "--dry-run" not in sys.argv:
            if request["again"]:
                if _has_ended(request["targets"], request["overrides"], since=started):
                    sys.stdout.flush()
                    command = [sys.executable, "-m", "ldae.cli", *request["again"]]
                    os.execve(sys.executable, command, environment)  # without what Snakemake has set for its jobs
                status = status or 1
            _print_results(request["names"], request["overrides"], since=started if status else None)
    except KeyboardInterrupt:  # before Snakemake installs its handlers, or while it ends
        sys.exit("ldae: interrupted")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # because Python flushes stdout when it exits
    sys.exit(status)


def _snakemake() -> int:
    """Runs Snakemake with `sys.argv` and returns its exit status."""
    try:
        runpy.run_module("snakemake", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, str):  # a message
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _has_ended(records: list[str], overrides: dict[str, str], *, since: float) -> bool:
    """Whether a run that started at a time has left nothing to do but trainings that have diverged."""
    from ldae.readers.tuning import has_ended
    from ldae.study.study import Study

    return has_ended(Study.load(Path(), overrides), Path(), records, since=since)


def _print_results(names: list[str], overrides: dict[str, str], *, since: float | None) -> None:
    """Prints the results of a run or, if it failed, the jobs that failed since it was started (`since`)."""
    from ldae.readers.outcome import failures, outcome
    from ldae.study.study import Study

    try:
        study = Study.load(Path(), overrides)
        lines = outcome(study, Path(), names) if since is None else failures(study, Path(), names, since=since)
        for line in lines:
            print(line, flush=True)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:  # Snakemake has already printed what is wrong
        print(f"ldae: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
