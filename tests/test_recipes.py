"""What README and docs tell a user to write and to type works as it stands there."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import ROOT, blocks, commands
from forked import Forked
from graph import Graph as Project
from graph import snakemake
from PIL import Image

from ldae.cli import parser
from ldae.study.file import StudyFile
from ldae.study.graph import Graph
from ldae.study.rates import Rates
from ldae.study.scale import Scale
from ldae.study.study import Study

SUM = "a" * 64  # for a checksum that the reader fills in
VAE = f"convolutional: {{published: {{path: vae.safetensors, sha256: {SUM}}}}}"
KINDS = {"", "bash", "yaml", "python", "text", "diff"}  # tests/workflow/test_ablations.py applies diffs
SAFE = ("list", "show", "diff", "plan", "status", "why", "compare", "export", "denoise")  # run as they stand
# parsed alone; `run` and Snakemake's own commands are dry runs, see below
PARSED = ("run", "tune", "track", "completion", "pack", "merge", "power")
OTHERS = {"cd", "conda", "tensorboard"}  # programs that are not this project's


def filled(text: str) -> dict[str, Any]:
    """A block of YAML with checksums in the places that the reader fills in."""
    values: dict[str, Any] = yaml.safe_load(re.sub(r'sha256: ("\.\.\."|\.\.\.)', f"sha256: {SUM}", text))
    return values


def is_of_a_scale(values: dict[str, Any]) -> bool:
    """Whether a block is a scale's file, or a piece of one; the others are entries of the study."""
    return "from" in values or set(values) <= set(Scale.model_fields)


BLOCKS = [block for block in blocks() if block.reason is None]
CONFIGURATION = {block.place: filled(block.text) for block in BLOCKS if block.kind == "yaml"}
OF_SCALES = {place: values for place, values in CONFIGURATION.items() if is_of_a_scale(values)}
OF_RATES = {place: values for place, values in CONFIGURATION.items() if set(values) <= set(Rates.model_fields)}
OF_STUDIES = {
    place: values for place, values in CONFIGURATION.items() if not is_of_a_scale(values) and place not in OF_RATES
}
COMMANDS = commands()
OF_SNAKEMAKE = {place: words for place, words in COMMANDS.items() if words[0] == "snakemake"}
OF_LDAE = {
    place: words[words.index("ldae") + 1 :]
    for place, words in COMMANDS.items()
    if "ldae" in words[:2] and len(words) > 2
}


def study_with(root: Path, entries: list[dict[str, Any]]) -> None:
    """Adds the entries that documents show to the study of a folder."""
    study = yaml.safe_load((root / "config.yaml").read_text())
    for values in entries:
        sections = values if set(values) <= set(StudyFile.model_fields) else {"variants": values}
        for section, added in sections.items():
            study[section] |= added
    (root / "config.yaml").write_text(yaml.safe_dump(study, sort_keys=False, allow_unicode=True))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the study and the scales of the project."""
    shutil.copy(ROOT / "config.yaml", tmp_path)
    (tmp_path / "scales").mkdir()
    for scale in ("smoke", "laptop", "gpu", "imagenet"):
        shutil.copy(ROOT / f"scales/{scale}.yaml", tmp_path / "scales")
    return tmp_path


def followed(home: Path) -> Path:
    """A clone in a home, whose owner has followed the README: own rows, own images in `~/pictures`, own scale."""
    project = Project.fresh(home / "project", "../config.yaml").folder
    trained = [values for values in OF_STUDIES.values() if "sha256" not in str(values)]
    study_with(project, trained)
    (readme,) = (values for place, values in OF_SCALES.items() if place.startswith("README"))
    (project / "scales/mine.yaml").write_text(yaml.safe_dump(readme))
    for name in ("cat", "dog"):
        (home / "pictures" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (90, 70), (20 * number, 99, 0)).save(home / f"pictures/{name}/{number}.jpg")
        shutil.copy(home / f"pictures/{name}/3.jpg", project / f"{name}.jpg")
    shutil.copy(project / "dog.jpg", project / "dog.png")
    return project


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a clone."""
    return followed(tmp_path_factory.mktemp("home"))


@pytest.fixture
def project(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The clone, entered by its owner."""
    monkeypatch.setenv("HOME", str(clone.parent))
    monkeypatch.chdir(clone)
    return clone


@pytest.fixture(scope="module")
def clone_with_results(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    """Another one with results at laptop scale: trained rows of a small network, and tables."""
    project = followed(tmp_path_factory.mktemp("home"))
    (project / "results/laptop").mkdir(parents=True)
    for place in ("dataset", "tokenizers", "pretrain"):
        (project / "results/laptop" / place).symlink_to(finished / place)
    (project / "results/laptop/tables").symlink_to(ROOT / "results/reference/tables")
    (project / "results/reference").symlink_to(ROOT / "results/reference")
    return project


@pytest.fixture
def trained(clone_with_results: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That one, entered by its owner."""
    monkeypatch.setenv("HOME", str(clone_with_results.parent))
    monkeypatch.chdir(clone_with_results)
    return clone_with_results


def test_each_block_is_of_a_kind_that_is_tested() -> None:
    assert {block.kind for block in BLOCKS} <= KINDS


@pytest.mark.parametrize("values", OF_SCALES.values(), ids=OF_SCALES)
def test_what_a_document_shows_of_a_scale_loads(values: dict[str, Any], root: Path) -> None:
    (root / "scales/mine.yaml").write_text(yaml.safe_dump({"from": "laptop"} | values))
    Study.load(root, {"scale": "mine"})


@pytest.mark.parametrize("values", OF_RATES.values(), ids=OF_RATES)
def test_what_a_document_shows_of_tuned_rates_loads(values: dict[str, Any], root: Path) -> None:
    (root / "scales/laptop.rates.yaml").write_text(yaml.safe_dump(values))
    assert set(Study.load(root, {}).rates.rows) == set(values["rows"])


def test_what_the_documents_show_of_a_study_loads(root: Path) -> None:
    (root / "scales/mine.yaml").write_text(f"from: laptop\n{VAE}\n")
    study_with(root, list(OF_STUDIES.values()))
    Study.load(root, {"scale": "mine"})


def test_the_row_that_the_readme_begins_with_is_one_of_the_study() -> None:
    name, row = next(iter(next(iter(OF_STUDIES.values())).items()))
    assert yaml.safe_load((ROOT / "config.yaml").read_text())["variants"][name] == row


def subcommands() -> dict[str, argparse.ArgumentParser]:
    """The parsers of all commands of `ldae`, by name."""
    (action,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


@pytest.mark.parametrize("words", OF_LDAE.values(), ids=OF_LDAE)
def test_a_command_of_ldae_runs(words: list[str], trained: Path) -> None:
    if "..." in words:  # the reader pastes the rest from `snakemake -p`
        assert {word for word in words if word.startswith("--")} <= set(subcommands()[words[0]]._option_string_actions)
        return
    arguments = parser().parse_args(words)
    if words[0] in SAFE:
        arguments.action(arguments)
    elif words[0] == "run":
        overrides = {key: getattr(arguments, key) for key in ("scale", "seeds", "study")}
        study = Study.load(trained, {key: value for key, value in overrides.items() if value is not None})
        assert Graph(study).jobs_for(arguments.names)
    else:
        assert words[0] in PARSED


@pytest.mark.parametrize("words", OF_SNAKEMAKE.values(), ids=OF_SNAKEMAKE)
def test_a_command_of_snakemake_names_targets_and_settings_that_there_are(words: list[str], project: Path) -> None:
    from snakemake.cli import parse_args

    words = [word.replace("$SLURM_CPUS_PER_TASK", "16") for word in words[1:]]
    with contextlib.redirect_stderr(None):
        arguments = parse_args(words)[1]
    study = Study.load(project, dict(word.split("=", 1) for word in arguments.config or []))
    graph = Graph(study)
    rules = set(re.findall(r"^rule (\w+):", "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk")), re.M))
    assert set(arguments.set_resources) | set(arguments.forcerun) <= rules
    files = {str(file) for job in graph.jobs.values() for file in job.files}
    for target in arguments.targets:
        assert target in files or graph.jobs_for([target])


def test_other_commands_name_files_and_targets_that_there_are() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for place, words in COMMANDS.items():
        program, *arguments = words
        if program == "make":
            assert set(arguments) <= targets, place
        elif program in ("python", "pytest"):
            named = f"{arguments[1].replace('.', '/')}.py" if arguments[0] == "-m" else arguments[0]
            assert (ROOT / named).exists(), place
        elif program == "source":
            assert arguments == [".venv/bin/activate"], place
        elif "ldae" in words[:2]:
            assert words[words.index("ldae") + 1] in subcommands(), place
        else:
            assert program == "snakemake" or program in OTHERS, place


def test_a_python_block_runs(trained: Path) -> None:
    words = ["export", "results/laptop/pretrain/ldae/seed0", "--out", "encoder"]
    arguments = parser().parse_args(words)
    arguments.action(arguments)
    shown = [block for block in BLOCKS if block.kind == "python"]
    assert shown
    for block in shown:
        exec(compile(block.text, block.place, "exec"), {})


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.kind == "bash"], ids=lambda block: block.place)
def test_a_script_is_one_of_bash(block: Any) -> None:
    said = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")


@pytest.mark.graph
def test_commands_that_run_the_graph_start(project: Path) -> None:
    """The same commands as dry runs, of the README's own rows and images."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for place, words in OF_SNAKEMAKE.items():
        words = [word.replace("$SLURM_CPUS_PER_TASK", "16") for word in words[1:] if word != "--unlock"]
        if "--profile" not in words and "--report" not in words:
            cores = [] if "--cores" in words else ["--cores", "1"]
            said = Forked(
                "-n", "--quiet", "rules", *cores, *words, main=snakemake(), folder=project, environment=environment
            )
            ended = said.ended()
            assert ended.returncode == 0, f"{place}: {ended.stderr}"
    for place, words in OF_LDAE.items():
        if words[0] == "run" and "slurm" not in words:
            ended = Forked(*words, "-n", folder=project, environment=environment).ended()
            assert ended.returncode == 0, f"{place}: {ended.stderr}"
