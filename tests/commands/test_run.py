"""`ldae run`: Snakemake as if a person had started it, and at its end what has come of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from graph import Graph as Project
from made_up import MadeUp
from rows import ROOT

from ldae.readers.outcome import failures, outcome
from ldae.runtime.files import read_json
from ldae.study.graph import Graph
from ldae.study.study import Study


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """The finished results of a study of three rows and two seeds, below a folder."""
    root = tmp_path_factory.mktemp("project")
    study = Study.load(ROOT, {"study": str(ROOT / "tests/study.yaml"), "seeds": [0, 1]})
    MadeUp(study, root / study.results).views()
    return study, root


def test_a_run_ends_with_the_accuracy_of_each_row_over_all_seeds(made_up: tuple[Study, Path]) -> None:
    study, root = made_up
    first, path, second, _ = outcome(study, root, ["pca", "single_level"])
    records = [root / study.results / f"probe/pca/seed{seed}/probe.json" for seed in (0, 1)]
    mean = sum(read_json(record)["blocks"]["0"]["linear"]["value"] for record in records) / 2
    assert first.startswith("pca: accuracy ") and second.startswith("single_level: accuracy ")
    assert abs(float(first.split()[2]) - 100 * mean) < 0.6  # which of made-up images are right is rounded
    assert "with random weights 25.0 %" in first
    assert path.strip() == f"{records[0]} and 1 more seed"


def test_a_run_ends_with_the_table_or_the_path_that_was_asked_for(made_up: tuple[Study, Path]) -> None:
    study, root = made_up
    graph = Graph(study, root)
    table, figure, page = (graph.jobs[place].files[0] for place in ("tables/table3", "figures/figure6", "report_main"))
    assert "".join(outcome(study, root, ["table3"])) == f"{table.read_text().rstrip()}{table}"
    assert list(outcome(study, root, ["figure6"])) == [str(figure)]
    *shown, last = outcome(study, root, ["main"])
    assert shown[0] == table.read_text().rstrip()
    assert last == f"All of it on one page: {page}"
    paths = list(outcome(study, root, ["all_tables"]))
    assert str(table) in paths and len(paths) == 3  # the claims and the cost, too


def test_a_run_that_failed_ends_with_the_reasons(made_up: tuple[Study, Path], tmp_path: Path) -> None:
    study, _ = made_up
    logs = tmp_path / study.results / "logs"
    for place, words in (
        ("dataset", "ldae: /pictures: is not a folder"),
        ("pretrain/pca/seed0", "ldae: interrupted"),
        ("tokenizers/pca/seed0", "ldae: an old mistake"),
    ):
        log = logs / f"{place}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"{words}\n")
    os.utime(logs / "tokenizers/pca/seed0.log", (1000, 1000))
    said = list(failures(study, tmp_path, ["pca"], since=time.time() - 100))
    assert said == [
        "dataset images has failed: ldae: /pictures: is not a folder",
        f"    its log: {logs / 'dataset.log'}",
    ]


def ldae_run(project: Project, *arguments: str) -> subprocess.Popen[str]:
    """Starts `ldae run` in a group of its own, as a shell does."""
    command = [sys.executable, "-m", "ldae.cli", "run", *arguments, "--cores", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=project.folder, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload,no-any-return]


@pytest.mark.graph
def test_a_row_is_run_from_a_folder_below_and_its_number_said_last(tmp_path: Path) -> None:
    project = Project.fresh(tmp_path)
    (tmp_path / "below/here").mkdir(parents=True)
    out, err = ldae_run(Project(tmp_path / "below/here"), "pca", "--study", "../../config.yaml").communicate()
    first, second = out.splitlines()[-2:]
    found = read_json(tmp_path / "results/smoke/probe/pca/seed0/probe.json")["blocks"]["0"]["linear"]["value"]
    assert first.startswith(f"pca: accuracy {100 * found:.1f} % [")
    assert (tmp_path / second.strip()).is_file()
    assert f"in {tmp_path}" in err and "5 of 5 steps (100%) done" in err
    project.edit("scales/smoke.yaml", "dataset: {source: photos", "dataset: {source: folder, path: none")
    project.edit("scales/smoke.yaml", ", train: 400, val: 200}", "}")
    failed = ldae_run(project, "pca")
    out, err = failed.communicate()
    assert failed.returncode == 1
    assert "none: is not a folder" in err.splitlines()[-1]


@pytest.mark.graph
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_a_signal_reaches_snakemake_and_its_jobs(number: signal.Signals, tmp_path: Path) -> None:
    project = Project.fresh(tmp_path)
    project.edit("scales/smoke.yaml", "training: {steps: 40,", "training: {steps: 400000,")
    process = ldae_run(project, "pca")
    deadline = time.monotonic() + 120
    while not project.checkpoint("pca").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal sends it
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (1 if number == signal.SIGINT else -number)
    assert "Traceback" not in err
    project.wait_for_jobs_to_end()
