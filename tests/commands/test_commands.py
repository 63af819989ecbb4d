"""What a person types: the rows listed, shown, compared and run; help, mistakes, completion, pipes and colours."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from forked import forked
from graph import Graph
from rich.console import Console, RenderableType

from ldae.cli import parser
from ldae.commands import models, parsing, stages, study
from ldae.overview.show import differences, listing, results_for, row_in_full, source_of
from ldae.runtime.files import read_json, write_json
from ldae.stages.probe import probe_pixels
from ldae.study.checking import StudyError
from ldae.study.graph import Graph as StudyGraph
from ldae.study.recipes import Probing
from ldae.study.record import Lineage
from ldae.study.stage_specs import ProbeStage
from ldae.study.study import Study

ROOT = Path(__file__).parents[2]
SMOKE = Study.load(ROOT, {"scale": "smoke"})
PERSONAL = (study.GROUP, models.GROUP, parsing.GROUP)


def text(parts: list[RenderableType]) -> str:
    console = Console(width=1000)
    with console.capture() as captured:
        console.print(*parts, sep="\n")
    return captured.get()


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What a command says to a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ldae.cli", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        | {"TERM": "xterm-256color", "COLUMNS": "200"}
        | environment,
        stdout=theirs,
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end has been closed
            break
        if not part:
            break
        said += part
    os.close(ours)
    assert process.wait() == 0
    return said.decode()


def test_the_tree_has_every_row_once_below_the_row_that_it_starts_from() -> None:
    lines = text(listing(SMOKE)).split("\n\n")[0].splitlines()[2:]
    pattern = re.compile(r"^(?P<branch>[↓├└│ ]*)(?P<name>[a-z]\w*)  ")
    found = [match for line in lines if (match := pattern.match(line))]
    assert sorted(match["name"] for match in found) == sorted(SMOKE.file.variants)
    above: dict[int, str] = {}
    for match in found:
        branch = match["branch"]
        column = len(branch) - 2 if branch else -1
        parent = SMOKE.file.variants[match["name"]].parent
        if branch.endswith("↓ "):  # an only child, of the row in the line above
            assert parent == above[-2]
        elif branch:
            assert parent == above[column]
        for deeper in [key for key in above if key > column]:
            del above[deeper]
        above[-2] = match["name"]
        above[column + (0 if branch.endswith("↓ ") or not branch else 2)] = match["name"]
        if not branch:
            above[0] = match["name"]


def test_the_list_tells_each_change_label_sweep_and_target() -> None:
    said = text(listing(SMOKE))
    line = next(line for line in said.splitlines() if " no_scaling " in line)
    assert "noise.schedule: unscaled" in line and "+ remove input scaling (fix γ = 1)" in line
    assert re.search(r"pca_d +pca +tokenizer.dim: 8, 16, 32, 64, 128", said)
    for target in (*SMOKE.file.tables, *SMOKE.file.figures, "claims", "report"):
        assert re.search(rf"^{target} +(table|figure|page) ", said, re.MULTILINE), target


def test_a_row_shows_where_each_of_its_values_comes_from() -> None:
    assert source_of(SMOKE, "ldae", "objective.tail") == "ldae"
    assert source_of(SMOKE, "ldae", "objective.predict") == "predict_clean"
    assert source_of(SMOKE, "ldae", "objective.units") == "default"
    assert source_of(SMOKE, "pca_d8", "tokenizer.dim") == "pca_d8"
    said = text(row_in_full(SMOKE, ROOT / "nowhere", "ldae"))
    assert re.search(r"^objective.tail +0.1 +this row *$", said, re.MULTILINE)
    assert re.search(r"^training.steps +40 *$", said, re.MULTILINE)  # of the scale
    assert len(re.findall(r"not yet", said)) == 5  # images, tokenizer, run and two probes


def test_a_baseline_s_row_shows_only_what_it_uses() -> None:
    said = text(row_in_full(SMOKE, ROOT, "mae_b"))
    assert "method.name" in said and "training.decoder_width" in said
    assert "noise.schedule" not in said and "tokenizer" not in said


def lineage(place: str) -> Lineage:
    return StudyGraph(SMOKE).jobs[place].lineage


def test_a_row_shows_which_results_are_there_and_current(prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results/smoke"
    write_json(folder / "dataset/manifest.json", {"lineage": lineage("dataset")})
    write_json(folder / "pretrain/pca/seed0/run.json", {"lineage": lineage("pretrain/pca/seed0")})
    probing = Probing(mode="cached", batch=24, epochs=2, rates=(1.0,), warmup=1)
    probe_pixels(ProbeStage(probing=probing), seed=0, revision=1, dataset=prepared / "dataset", out=tmp_path / "pixels")
    blocks = read_json(tmp_path / "pixels/probe.json")["blocks"]  # as a probe writes them
    about = {"row": "pca", "seed": 0, "lineage": lineage("probe/pca/seed0"), "blocks": blocks}
    write_json(folder / "probe/pca/seed0/probe.json", about)
    (folder / "tokenizers/pca/seed0").mkdir(parents=True)
    (folder / "tokenizers/pca/seed0/tokenizer.json").write_text("{")

    def lines() -> dict[str, str]:
        table = text(row_in_full(SMOKE, tmp_path, "pca")).split("\n\n")[-1]
        return {line.split()[0]: line.rstrip() for line in table.splitlines()[2:]}

    correct = np.load(tmp_path / "pixels/correct.npz")["0/linear"]
    assert lines()["dataset"].endswith("done")
    assert "damaged" in lines()["tokenizer"]
    assert f"done: {100 * correct.mean():.1f} %" in lines()["probe"]
    write_json(folder / "pretrain/pca/seed0/run.json", {"lineage": lineage("dataset")})
    assert "outdated: tokenizer: is new" in lines()["pretrain"] and "outdated" in lines()["probe"]


def test_two_rows_differ_in_the_keys_of_the_change_between_them() -> None:
    said = text(differences(SMOKE, "pca", "predict_clean"))
    keys = {line.split()[0]: line.split()[1:] for line in said.split("\n\n")[0].splitlines()[1:]}
    assert keys == {"objective.predict": ["noise", "clean"], "objective.weight": ["uniform", "signal"]}
    assert "They share dataset, tokenizer, probe_untrained; each has its own pretrain, probe." in said
    assert "network.size" in text(differences(SMOKE, "ldae_b", "ldae_l"))
    assert "size.width" in text(differences(SMOKE, "ldae_b", "ldae_l"))  # which the scale makes of it
    assert "one pass of the probe serves both" in text(differences(SMOKE, "ldae", "block1"))
    assert "same configuration" in text(differences(SMOKE, "ldae", "ldae"))


def test_a_row_is_run_to_its_probe_and_to_its_distance_where_it_has_one() -> None:
    seeds = Study.load(ROOT, {"scale": "smoke", "seeds": "[0, 3]"})
    probes, untrained = (
        [f"results/smoke/{folder}/dit/seed{seed}/probe.json" for seed in (0, 3)] for folder in ("probe", "untrained")
    )
    distances = [f"results/smoke/judge/dit/seed{seed}/distance.json" for seed in (0, 3)]
    assert results_for(seeds, ["dit"]) == [*probes, *untrained, *distances]
    one_pass = ["results/smoke/probe/ldae/seed0/probe.json", "results/smoke/untrained/image_input/seed0/probe.json"]
    assert results_for(SMOKE, ["block1", "ldae"]) == one_pass
    assert len(results_for(SMOKE, ["pca_d"])) == 10
    assert [path.split("/")[2] for path in results_for(SMOKE, ["mae_b"])] == ["probe", "untrained", "finetune"]
    assert results_for(SMOKE, ["table3", "claims"]) == ["table3", "claims"]
    with pytest.raises(StudyError, match="'pcaa' is not a target or row .did you mean 'pca'"):
        results_for(SMOKE, ["pcaa"])


@pytest.mark.parametrize("text", ["0,3", "[0,3]", "[0, 3]"])
def test_seeds_are_a_list_with_brackets_or_without(text: str) -> None:
    assert parser().parse_args(["list", "--seeds", text]).seeds == "[0, 3]"


def test_a_row_runs_at_the_scale_of_the_study_also_with_a_profile_that_has_another(tmp_path: Path) -> None:
    folder = Graph.fresh(tmp_path).folder
    assert "scale: imagenet" in (folder / "slurm/study.yaml").read_text()
    said = forked("run", "pca", "--profile", "slurm", "--dry-run", folder=folder)
    assert said.returncode == 0, said.stderr
    assert "results/smoke/probe/pca/seed0/probe.json" in said.stdout + said.stderr


def test_snakemake_runs_what_a_row_needs_and_no_more(tmp_path: Path) -> None:
    folder = Graph.fresh(tmp_path).folder
    said = forked("run", "pca", "--scale", "smoke", "--seeds", "[7]", "--cores", "1", "--dry-run", folder=folder)
    assert said.returncode == 0, said.stderr
    planned = dict(re.findall(r"^(\w+) +(\d+)$", said.stdout, re.MULTILINE))
    assert planned == {
        "dataset": "1",
        "tokenizer": "1",
        "pretrain": "1",
        "probe": "1",
        "probe_untrained": "1",
        "total": "5",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shwo"], ["unknown command 'shwo'", "did you mean 'show'"]),
        (["list", "--sacle", "smoke"], ["ldae list: unknown option '--sacle'", "did you mean '--scale'"]),
        (["completion", "bahs"], ["'bahs'", "did you mean 'bash'"]),
        (["show"], ["ROW"]),
        (["list", "--seeds", "0,x"], ["--seeds", "'0,x'", "e.g. 0,1,2"]),
    ],
)
def test_a_mistake_in_a_command_is_one_line_with_the_nearest_name(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert len(said.splitlines()) == 1
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "lade"], ["'lade' is not a row", "'ldae'"]),
        (["show", "pca_d"], ["is a sweep", "pca_d8"]),
        (["diff", "pca", "pac"], ["'pac' is not a row"]),
        (["run", "figure55"], ["'figure55' is not a target or row", "'figure5'"]),
        (["list", "--scale", "smok"], ["'smok'", "'smoke'"]),
    ],
)
def test_a_mistake_in_a_name_is_one_line_with_the_nearest(arguments: list[str], words: list[str]) -> None:
    said = forked(*arguments)
    assert said.returncode == 1 and not said.stdout
    assert len(said.stderr.splitlines()) == 1, said.stderr
    assert all(word in said.stderr for word in words), said.stderr


def test_the_study_is_found_from_a_folder_below_its_own(tmp_path: Path) -> None:
    folder = Graph.fresh(tmp_path / "project").folder
    (folder / "notes/here").mkdir(parents=True)
    there, below = (forked("show", "pca", folder=place) for place in (folder, folder / "notes/here"))
    assert below.returncode == 0 and below.stdout == there.stdout
    assert below.stderr == f"in {folder}\n"
    other = forked("list", "--study", "../../config.yaml", folder=folder / "notes/here")
    assert other.returncode == 0 and "predict_clean" in other.stdout
    nowhere = forked("plan", folder=tmp_path)
    assert nowhere.returncode == 1
    assert nowhere.stderr == (
        f"ldae: {tmp_path}: no study here or above (no config.yaml next to scales/); run ldae in the project's folder\n"
    )


def test_help_has_what_a_person_types_before_what_the_rules_call() -> None:
    said = parser().format_help()
    places = [said.index(f"\n{group}:") for group in (*PERSONAL, stages.GROUP)]
    assert places == sorted(places)


def commands_of(group: str) -> list[str]:
    return [action.dest for action in parser().groups[group]]


@pytest.mark.parametrize("command", [name for group in PERSONAL for name in commands_of(group)])
def test_a_command_that_a_person_types_has_examples_that_it_understands(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([command, "--help"])
    _, _, examples = capsys.readouterr().out.partition("Examples:\n")
    lines = re.findall(rf"ldae {command}([^#|)\n]*)", examples)
    assert lines
    for line in lines:
        parser().parse_args([command, *line.split()])  # a mistake ends the process


def test_help_is_quick_for_it_loads_none_of_the_large_libraries() -> None:
    large = "('pydantic', 'yaml', 'numpy', 'pandas', 'rich', 'argcomplete', 'torch')"
    code = "import sys; from ldae.cli import parser; parser().format_help()"
    code += f"; print([name for name in {large} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["show", "pca"]])
def test_a_reader_that_has_gone_is_no_mistake(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    said = subprocess.run(
        [sys.executable, "-m", "ldae.cli", *arguments], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert said.returncode in (0, 141)  # argparse keeps quiet itself about help that nobody reads
    assert said.stderr == b""


def test_a_terminal_gets_colours_unless_it_wants_none_and_a_pipe_never_does() -> None:
    assert re.search(r"\x1b\[[0-9;]*3[0-9]m", on_a_terminal("list"))
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", on_a_terminal("list", NO_COLOR="1"))
    piped = forked("list").stdout
    assert "\x1b" not in piped
    assert not any(line.endswith(" ") for line in piped.splitlines())


def test_a_row_of_many_changes_makes_no_other_line_long_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # which pytest's own workers have
    lines = forked("list").stdout.splitlines()
    (dit,) = (line for line in lines if line.startswith("dit "))
    assert sum(len(line) > 150 for line in lines) == 1 < len(dit)


def test_a_narrow_terminal_is_kept_to() -> None:
    said = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal("list", COLUMNS="100"))
    assert max(map(len, said.replace("\r", "").splitlines())) <= 100
    assert "claims_scaling" in said  # the names are never broken


def completions(line: str, tmp_path: Path) -> set[str]:
    """What a shell would be told of how a line can go on."""
    answer = tmp_path / "answer"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    assert not forked(**asked).stderr
    return set(answer.read_text().split())


def test_commands_options_rows_targets_and_scales_are_completed(tmp_path: Path) -> None:
    assert completions("ldae sta", tmp_path) == {"status"}
    assert completions("ldae list --sc", tmp_path) == {"--scale"}
    assert completions("ldae show no_lab", tmp_path) == {"no_labels"}
    assert completions("ldae show --study tests/study.yaml p", tmp_path) == {"pca", "predict_clean"}
    assert completions("ldae run figure5", tmp_path) == {"figure5"}
    assert completions("ldae plan --scale sm", tmp_path) == {"smoke"}
    assert completions("ldae show --study tests/helpers/graph.py p", tmp_path) == set()  # no study: silence


def test_the_script_for_a_shell_completes_with_it() -> None:
    said = subprocess.run(
        ["bash", "-c", f'eval "$({sys.executable} -m ldae.cli completion bash)" && complete -p ldae'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "argcomplete" in said.stdout and said.stdout.strip().endswith("ldae")
