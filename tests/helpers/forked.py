"""Programs in forks of this process, which has imported already what takes each of them seconds to import."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import torch._dynamo  # noqa: F401  # or each fork would do it, for a test's optimizer of torch or the linear tokenizers'

from ldae import cli
from ldae.runtime.process import imports


class Forked:
    """A program from its start to its end; it is asked for as from a shell, and ends with a status like there."""

    def __init__(
        self,
        *arguments: str,
        main: Callable[[], object] = cli.main,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts it.

        Args:
            arguments: of its command line.
            main: the program; `ldae` by default.
            folder: that it works in; this process's by default.
            environment: all of it; this process's by default.
        """
        self.arguments = arguments
        self._said = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        words = (main, arguments, folder or Path(), dict(os.environ if environment is None else environment))
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=_run, args=(*words, *self._said), daemon=True)
        self.process.start()

    @property
    def stderr(self) -> str:
        """What it has said on standard error until now."""
        return _text(self._said[1])

    def ended(self, seconds: float = 300.0) -> subprocess.CompletedProcess[str]:
        """What has become of it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"it is still running after {seconds} seconds"
        found = subprocess.CompletedProcess(self.arguments, self.process.exitcode, *map(_text, self._said))
        for file in self._said:
            file.close()
        return found


def forked(*arguments: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """What becomes of `ldae` with these arguments, in an environment that has more than this process's."""
    return Forked(*arguments, folder=folder, environment=os.environ | environment).ended()


def _run(
    main: Callable[[], object],
    arguments: tuple[str, ...],
    folder: Path,
    environment: dict[str, str],
    out: IO[bytes],
    err: IO[bytes],
) -> None:
    warnings.resetwarnings()  # which are errors in a test
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    imports.seconds = 0.0  # a program of its own has no stage behind it
    sys.argv = ["a program", *arguments]
    for number, file in ((1, out), (2, err)):
        os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    main()


def _text(file: IO[bytes]) -> str:
    """All of a file that another process writes at its own pace."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()
