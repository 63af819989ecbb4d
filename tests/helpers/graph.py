"""A private copy of the project's graph with a study of the tests, to run, edit, kill and compare."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from forked import Forked

from ldae.study.stages import RECORDS

ROOT = Path(__file__).parents[2]
RESULTS = Path("results/smoke")


@cache
def snakemake() -> Callable[[], object]:
    """Snakemake's program for forks of this process, which has then imported what each of them would."""
    import smart_open  # noqa: F401
    from snakemake.cli import main, parse_args

    parse_args(["--dry-run"])  # looks for plugins in all installed packages
    return main


class Graph:
    """A copy of the workflow in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def fresh(cls, folder: Path, study: str | Path = "study.yaml") -> Graph:
        """A copy in which nothing has run yet, of a study of the tests or of another."""
        for name in ("workflow", "rules", "scales", "slurm", "ldae"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "environment.yml", folder)
        shutil.copy(ROOT / "tests" / study, folder / "config.yaml")
        return cls(folder)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts snakemake in a process group of its own, as a terminal would; it speaks into `said`."""
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        with self.said.open("w") as said:
            return subprocess.Popen(
                ["snakemake", "--cores", "2", *arguments],
                cwd=self.folder,
                env=environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> Path:
        """What the last snakemake said."""
        return self.folder / "said.txt"

    def run(self, *arguments: str, seconds: float = 1800) -> str:
        """Runs snakemake to its end and returns what it said; fails when it did."""
        returncode = self.start(*arguments).wait(timeout=seconds)
        output = self.said.read_text()
        assert returncode == 0, output
        return output

    def dry_run(self, *arguments: str) -> str:
        """What snakemake says of what it would do; fails when it does."""
        ended = Forked("--cores", "2", "--dry-run", *arguments, main=snakemake(), folder=self.folder).ended()
        output = ended.stdout + ended.stderr
        assert ended.returncode == 0, output
        return output

    def planned(self, *arguments: str) -> dict[str, int]:
        """How many jobs of each rule a dry run plans, targets aside."""
        output = self.dry_run(*arguments)
        stats = output.partition("Job stats:")[2].partition("\n\n")[0]
        counts = {rule: int(count) for rule, count in re.findall(r"^(\w+)\s+(\d+)$", stats, re.MULTILINE)}
        return {
            rule: n
            for rule, n in counts.items()
            if rule not in ("total", "main", "all", "all_tables", "all_figures", "count")
        }

    def edit(self, file: str, old: str, new: str) -> None:
        """Replaces a text that stands in a file."""
        path = self.folder / file
        text = path.read_text()
        assert old in text, f"{file} has no {old!r}"
        path.write_text(text.replace(old, new))

    def tables(self) -> dict[str, bytes]:
        """The bytes of all results that must not depend on how a run went."""
        results = self.folder / RESULTS
        names = [
            *results.glob("tables/table3.*"),
            *results.glob("figures/*"),
            *results.glob("pretrain/*/*/*.safetensors"),
        ]
        return {str(path.relative_to(results)): path.read_bytes() for path in sorted(names)}

    @property
    def num_records(self) -> int:
        """How many jobs of stages have finished."""
        results = self.folder / RESULTS
        folders = (path for path in results.glob("*") if path.name != "resume")
        return sum(path.name in RECORDS for folder in folders for path in folder.rglob("*.json"))

    def checkpoint(self, row: str) -> Path:
        """Where the training of a row keeps what it has done so far."""
        return self.folder / RESULTS / "resume/pretrain" / row / "seed0/checkpoint.pt"

    def jobs(self) -> list[int]:
        """The ids of the stages that run in this folder now."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
                inside = os.readlink(entry / "cwd") == str(self.folder)
            except OSError:  # it has ended meanwhile
                continue
            if inside and any(word.endswith(b"/ldae") for word in command[:2]):
                found.append(int(entry.name))
        return found

    def wait_for_jobs_to_end(self, seconds: float = 10.0) -> None:
        """Returns once no stage runs here; fails if one has outlived its driver."""
        deadline = time.monotonic() + seconds
        while left := self.jobs():
            assert time.monotonic() < deadline, f"stages {left} have outlived the process that started them"
            time.sleep(0.05)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a process and all of its group."""
    os.killpg(process.pid, signal.SIGKILL)
