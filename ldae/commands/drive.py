"""`python -m ldae.commands.drive`: Snakemake, for `ldae run`, and, once it has ended, what has come of it; no torch.

Snakemake runs in this very process, so that signals reach it as if a person had started it, and its exit status is this
process's.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from pathlib import Path


def main() -> None:
    """Runs Snakemake.

    The first argument says, as JSON, what has been asked for: the `names` of rows and other targets, and what else the
    command line says of the study (`given`). The others are Snakemake's.
    """
    asked, started = json.loads(sys.argv[1]), time.time()
    sys.argv = ["snakemake", *sys.argv[2:]]
    try:
        status = _snakemake()
        if "--dry-run" not in sys.argv:
            _tell(asked["names"], asked["given"], since=started if status else None)
    except KeyboardInterrupt:  # before Snakemake listens, or while it ends
        sys.exit("ldae: interrupted")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python itself flushes at its end
    sys.exit(status)


def _snakemake() -> int:
    """Snakemake's exit status."""
    try:
        runpy.run_module("snakemake", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, str):  # a message
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _tell(names: list[str], given: dict[str, str], *, since: float | None) -> None:
    """Prints what has come of it; of a run that failed, what has failed since it was started."""
    from ldae.readers.outcome import failures, outcome
    from ldae.study.variants import Study

    try:
        study = Study.load(Path(), given)
        lines = outcome(study, Path(), names) if since is None else failures(study, Path(), names, since=since)
        for line in lines:
            print(line, flush=True)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:  # Snakemake has said what is wrong with the study or its results
        print(f"ldae: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
