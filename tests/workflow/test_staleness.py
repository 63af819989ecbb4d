"""What runs again: for edits of a study, in states that results come in, exactly the jobs that the edit concerns."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import driver
import pytest
from forked import Forked
from graph import RESULTS, ROOT, Graph, snakemake
from stand_in import served

from ldae.overview.plan import plan
from ldae.overview.state import State
from ldae.overview.status import status, why
from ldae.runtime import locking
from ldae.runtime.files import read_json, write_json
from ldae.study.graph import Graph as Jobs
from ldae.study.study import Study

ROWS = ("pca", "predict_clean", "single_level")
VIEWS = {"tables/table3", "figures/figure6", "tables/claims", "tables/cost", "tables/cost_all", "report_main", "report"}
PAGES = {"report_main", "report"}
LABELLED = {"tables/table3", "figures/figure6", "tables/claims"} | PAGES


def runs_of(*rows: str, seed: int = 0) -> set[str]:
    """The training and the probe of rows."""
    return {f"{stage}/{row}/seed{seed}" for row in rows for stage in ("pretrain", "probe")}


class Edit(NamedTuple):
    """An edit of the study, and the jobs that it concerns."""

    file: str
    old: str
    new: str
    concerns: set[str]
    arguments: tuple[str, ...] = ()


UNTRAINED = "untrained/pca/seed0"  # from which all three rows start
PROBES = {f"probe/{row}/seed0" for row in ROWS} | {"pixels/seed0", UNTRAINED}
EDITS = {
    "nothing": Edit("config.yaml", "scale: smoke", "scale: smoke ", set()),
    "row": Edit(
        "config.yaml",
        "objective.predict: clean, ",
        "objective.predict: clean, noise.schedule: ddpm, ",
        runs_of("predict_clean") | VIEWS,  # the next row overrides the schedule
    ),
    "inherited": Edit(
        "config.yaml",
        "objective.weight: signal",
        "objective.weight: uniform",
        runs_of("predict_clean", "single_level") | VIEWS,
    ),
    "steps": Edit("scales/smoke.yaml", "steps: 40", "steps: 41", runs_of(*ROWS) | VIEWS),
    "fit": Edit(
        "scales/smoke.yaml",
        "patches: 4000",
        "patches: 4001",
        runs_of(*ROWS) | {"tokenizers/pca/seed0", UNTRAINED} | VIEWS,
    ),
    "probing": Edit("scales/smoke.yaml", "epochs: 5", "epochs: 6", PROBES | VIEWS),
    "machine": Edit("scales/smoke.yaml", "mem_mb: 1500", "mem_mb: 1600", set()),
    "revision": Edit("config.yaml", "probe: 4,", "probe: 9,", PROBES | VIEWS),
    "images": Edit(
        "scales/smoke.yaml",
        "train: 400",
        "train: 410",
        runs_of(*ROWS) | PROBES | {"dataset", "tokenizers/pca/seed0"} | VIEWS,
    ),
    "label": Edit("config.yaml", "label: + predict clean data", "label: + clean targets", LABELLED),
    "number": Edit("config.yaml", "probe: 62.4", "probe: 62.5", LABELLED),
    "title": Edit(
        "config.yaml", 'trajectory\n    title: "Three rows"', 'trajectory\n    title: "3"', {"figures/figure6"} | PAGES
    ),
    "claim": Edit("config.yaml", "above: 0", "above: 1", {"tables/claims", "report"}),
    "seed": Edit(
        "config.yaml",
        "scale: smoke",
        "scale: smoke",
        runs_of(*ROWS, seed=1) | {"tokenizers/pca/seed1", "pixels/seed1", "untrained/pca/seed1"} | VIEWS,
        ("--config", "seeds=[0,1]"),
    ),
    "new row": Edit(
        "config.yaml",
        "rows: [pca, predict_clean, single_level]\n    target: main\n\nfigures:",
        "rows: [pca_d8, pca, predict_clean, single_level]\n    target: main\n\nfigures:",
        runs_of("pca_d8") | {"untrained/pca_d8/seed0", "tables/table3", "tables/cost", "tables/cost_all"} | PAGES,
    ),
}


def whole(graph: Graph) -> set[str]:
    """Everything as the run before has left it."""
    return set()


def without_metadata(graph: Graph) -> set[str]:
    """Snakemake's notes of what ran are gone."""
    shutil.rmtree(graph.folder / ".snakemake/metadata", ignore_errors=True)
    return set()


def without_notes(graph: Graph) -> set[str]:
    """All that Snakemake wrote for itself is gone."""
    shutil.rmtree(graph.folder / ".snakemake")
    return set()


def copied(graph: Graph) -> set[str]:
    """The results come from another machine: no notes, and times in any order."""
    shutil.rmtree(graph.folder / ".snakemake")
    moments = random.Random(0)
    for path in (graph.folder / "results").rglob("*"):
        os.utime(path, (moments.uniform(1e9, 1.8e9),) * 2)
    return set()


def killed_driver(graph: Graph) -> set[str]:
    """Another run was killed: its lock and its registration are left."""
    folder = graph.folder / ".snakemake"
    (folder / "drivers").mkdir(parents=True, exist_ok=True)
    (folder / "locks").mkdir(parents=True, exist_ok=True)
    (folder / "locks/0.input.lock").write_text(str(RESULTS / "dataset/manifest.json"))
    return set()


def after_a_dry_run(graph: Graph) -> set[str]:
    """An edit was tried in a dry run, `plan`, `status` and `why`, and taken back; none of them has written anything."""
    before = snapshot(graph.folder / "results")
    graph.edit("scales/smoke.yaml", "steps: 40", "steps: 44")
    assert "pretrain: training.steps 40 -> 44" in planned(graph, "all")
    study = Study.load(graph.folder, {})
    why(study, graph.folder, ["all"]), plan(study, graph.folder, ["all"]), status(study, graph.folder, ["all"])
    graph.edit("scales/smoke.yaml", "steps: 44", "steps: 40")
    assert snapshot(graph.folder / "results") == before
    return set()


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The bytes and the times of all files of a folder."""
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def of_older_code(graph: Graph) -> set[str]:
    """Records from before inputs were noted, and views from before they had records."""
    for path in (graph.folder / RESULTS).rglob("*.json"):
        about = read_json(path)
        if set(about) == {"lineage", "inputs", "sha256"} and not (path.parent / "history.csv").exists():
            if path.parent.name in ("tables", "figures", "smoke"):
                path.unlink()
                continue
        about.pop("inputs", None)
        write_json(path, about)
    return VIEWS


STATES: tuple[Callable[[Graph], set[str]], ...] = (
    whole,
    without_metadata,
    without_notes,
    copied,
    killed_driver,
    after_a_dry_run,
    of_older_code,
)
PAIRS = [(name, STATES[(number + shift) % len(STATES)]) for number, name in enumerate(EDITS) for shift in (0, 3)]
OTHERS = [(name, state) for name in EDITS for state in STATES if (name, state) not in PAIRS]
OTHERS = random.Random(0).sample(OTHERS, 35)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an `ldae` that only writes records."""
    folder = tmp_path_factory.mktemp("bin")
    with served(folder):
        yield folder


class Run(NamedTuple):
    """A run of Snakemake."""

    status: int
    said: str
    ran: Counter[str]


def run(
    graph: Graph, stand_in: Path, *arguments: str, cores: int = 4, meanwhile: Callable[[], object] = lambda: None
) -> Run:
    """Runs Snakemake with the stand-in for all jobs; `meanwhile` happens after it has decided which."""
    main = snakemake()
    ran = graph.folder / "ran.txt"
    ran.write_text("")
    equip, make_way = driver.set_job_environment, locking.make_way

    def with_stand_in() -> None:
        def equipped(*words: Any, **options: Any) -> None:
            equip(*words, **options)
            os.environ["PATH"] = f"{stand_in}{os.pathsep}{os.environ['PATH']}"

        def waited(*words: Any) -> None:
            make_way(*words)
            meanwhile()

        driver.set_job_environment, locking.make_way = equipped, waited
        main()

    environment = os.environ | {"RAN": str(ran), "PYTHONPATH": str(ROOT)}
    words = ("--cores", str(cores), "--scheduler", "greedy", "--quiet", "progress", "--show-failed-logs", *arguments)
    ended = Forked(*words, main=with_stand_in, folder=graph.folder, environment=environment).ended()
    return Run(ended.returncode, ended.stdout + ended.stderr, Counter(ran.read_text().split()))


def planned(graph: Graph, *arguments: str) -> str:
    """What Snakemake says of what it would do."""
    ended = Forked("--cores", "1", "--dry-run", *arguments, main=snakemake(), folder=graph.folder).ended()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def jobs_of_why(graph: Graph, *arguments: str, target: str = "all") -> set[str]:
    """What `ldae why` names of a target."""
    overrides = dict(word.split("=") for word in arguments if "=" in word)
    found = State(Jobs(Study.load(graph.folder, overrides), graph.folder)).to_run([target])
    return {job.place for job in found}


@pytest.fixture(scope="module")
def finished(stand_in: Path, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    graph = Graph.fresh(tmp_path_factory.mktemp("finished"))
    shutil.rmtree(graph.folder / "ldae")
    (graph.folder / "ldae").symlink_to(ROOT / "ldae")  # which this process has imported already
    graph.edit(
        "config.yaml", "\ntables:", "  pca_d8:\n    from: pca\n    label: d = 8\n    set: {tokenizer.dim: 8}\n\ntables:"
    )
    curves = 'training: {kind: curves, title: "Training", rows: [pca], target: none}'
    graph.edit("config.yaml", "\nfigures:", f"\nfigures:\n  {curves}\n")
    done = run(graph, stand_in, "all", "training")
    assert done.status == 0, done.said
    return graph


def copy_of(graph: Graph, folder: Path) -> Graph:
    return Graph(shutil.copytree(graph.folder, folder / "copy", symlinks=True))


@pytest.mark.parametrize(
    ("name", "state"),
    [*PAIRS, *(pytest.param(*pair, marks=pytest.mark.graph) for pair in OTHERS)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_exactly_what_an_edit_concerns_runs(
    name: str, state: Callable[[Graph], set[str]], finished: Graph, stand_in: Path, tmp_path: Path
) -> None:
    graph, edit = copy_of(finished, tmp_path), EDITS[name]
    also = state(graph)
    graph.edit(edit.file, edit.old, edit.new)
    concerned = edit.concerns | also
    assert jobs_of_why(graph, *edit.arguments) == concerned
    done = run(graph, stand_in, "all", *edit.arguments)
    assert done.status == 0, done.said
    assert done.ran == Counter(concerned)
    assert jobs_of_why(graph, *edit.arguments) == set()


def test_two_drivers_run_each_job_once(finished: Graph, stand_in: Path, tmp_path: Path) -> None:
    graph, edit = copy_of(finished, tmp_path), EDITS["inherited"]
    graph.edit(edit.file, edit.old, edit.new)
    first, second = run(graph, stand_in, "table3"), run(graph, stand_in, "all")
    assert (first.status, second.status) == (0, 0)
    assert first.ran == Counter(runs_of("predict_clean", "single_level") | {"tables/table3"})
    assert first.ran + second.ran == Counter(edit.concerns)


def test_a_run_that_another_has_overtaken_ends_before_it_computes_anything_again(
    finished: Graph, stand_in: Path, tmp_path: Path
) -> None:
    first, second = (copy_of(finished, tmp_path / name) for name in ("first", "second"))
    for graph in (first, second):
        graph.edit("config.yaml", "objective.weight: signal", "objective.weight: uniform")
    assert run(first, stand_in, "all").status == 0

    def overtake() -> None:
        shutil.copytree(first.folder / RESULTS, second.folder / RESULTS, dirs_exist_ok=True)

    done = run(second, stand_in, "all", meanwhile=overtake)
    assert done.status != 0 and done.ran == Counter()
    assert "Another snakemake has finished 11 of these jobs meanwhile, e.g. " in done.said
    assert jobs_of_why(second) == set()


def test_a_run_that_replaces_what_results_were_computed_from_says_so(
    finished: Graph, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, a network that is trained again is not the same to the last bit."""
    graph = copy_of(finished, tmp_path)
    said = "Outdated results are left"
    assert said not in run(graph, stand_in, "all", "--forcerun", "pretrain").said
    monkeypatch.setenv("BYTES", "others")
    done = run(graph, stand_in, "all", "--forcerun", "pretrain")
    assert done.status == 0 and f"{said}: " in done.said and "was computed from another model" in done.said
    assert jobs_of_why(graph) == {f"probe/{row}/seed0" for row in ROWS} | VIEWS
    assert said not in run(graph, stand_in, "all").said
    assert jobs_of_why(graph) == set()


def test_a_dry_run_names_the_first_stage_that_differs_and_no_specification(finished: Graph, tmp_path: Path) -> None:
    graph = copy_of(finished, tmp_path)
    shutil.rmtree(graph.folder / ".snakemake")
    graph.edit("scales/smoke.yaml", "patches: 4000", "patches: 5000")
    graph.edit("scales/smoke.yaml", "epochs: 5", "epochs: 6")
    said = planned(graph, "all")
    reasons = {line.partition("Reason: ")[2] for line in said.splitlines() if line.startswith("Reason: ")}
    first = "Params have changed since last execution: tokenizer: fitting.patches 4000 -> 5000"
    assert {reason.partition(" (and")[0] for reason in reasons} >= {first}
    assert max(len(line) for line in said.splitlines()) < 1000
    assert "tokenizer: fitting.patches 4000 -> 5000" in why(Study.load(graph.folder, {}), graph.folder, ["all"])


def test_a_result_whose_input_was_deleted_is_not_computed_again(
    finished: Graph, stand_in: Path, tmp_path: Path
) -> None:
    graph, edit = copy_of(finished, tmp_path), EDITS["new row"]
    shutil.rmtree(graph.folder / RESULTS / "dataset")
    (graph.folder / RESULTS / "pretrain/pca/seed0/model.safetensors").unlink()
    assert jobs_of_why(graph) == set()
    graph.edit(edit.file, edit.old, edit.new)
    assert run(graph, stand_in, "all").ran == Counter(edit.concerns | {"dataset"} | VIEWS)


def test_a_view_that_fails_leaves_the_one_before(finished: Graph, stand_in: Path, tmp_path: Path) -> None:
    graph = copy_of(finished, tmp_path)
    before = snapshot(graph.folder / RESULTS / "tables")
    graph.edit("config.yaml", "probe: 62.4", "probe: 62.5")
    (graph.folder / RESULTS / "probe/pca/seed0/probe.json").write_text("{")
    done = run(graph, stand_in, "table3", "--allowed-rules", "table")
    assert done.status != 0 and "probe.json" in done.said
    after = snapshot(graph.folder / RESULTS / "tables")
    assert {path: content for path, (content, _) in after.items()} == {
        path: content for path, (content, _) in before.items()
    }


def test_the_results_of_two_studies_do_not_mix(finished: Graph, tmp_path: Path) -> None:
    graph = copy_of(finished, tmp_path)
    shutil.copy(graph.folder / "config.yaml", graph.folder / "other.yaml")
    graph.edit("other.yaml", "label: patch-wise PCA baseline", "label: another")
    said = planned(graph, "table3", "--config", "study=other.yaml")
    assert "results/other/smoke/tables/table3.md" in said
    assert jobs_of_why(graph) == set()


def test_another_training_under_the_same_probe_is_noticed(finished: Graph, stand_in: Path, tmp_path: Path) -> None:
    """A colleague's weights, of the same specification, were copied over those that the probe looked at."""
    graph = copy_of(finished, tmp_path)
    record = graph.folder / RESULTS / "pretrain/pca/seed0/run.json"
    write_json(record, read_json(record) | {"sha256": {"model.safetensors": "other"}})
    assert jobs_of_why(graph) == {"probe/pca/seed0"} | VIEWS
    assert run(graph, stand_in, "all").ran == Counter({"probe/pca/seed0"} | VIEWS)


@pytest.mark.parametrize(
    ("file", "left_by"),
    [
        ("dataset/groups.npy", {"dataset"}),
        ("probe/pca/seed0/correct.npz", {"probe/pca/seed0"}),
        ("pretrain/pca/seed0/history.csv", {"pretrain/pca/seed0", "tables/cost", "tables/cost_all"}),
        ("pretrain/pca/seed0/model.safetensors", set()),
        ("dataset/images.npy", set()),
    ],
)
def test_a_view_that_is_written_again_finds_all_that_it_opens(
    file: str, left_by: set[str], finished: Graph, stand_in: Path, tmp_path: Path
) -> None:
    graph, edit = copy_of(finished, tmp_path), EDITS["label"]
    (graph.folder / RESULTS / file).unlink()
    assert jobs_of_why(graph) == set()
    graph.edit(edit.file, edit.old, edit.new)
    concerned = edit.concerns | left_by
    if "probe/pca/seed0" in left_by:
        concerned |= VIEWS
    assert jobs_of_why(graph) == concerned
    assert run(graph, stand_in, "all").ran == Counter(concerned)


@pytest.mark.parametrize("text", [None, "{"])
def test_curves_of_a_training_whose_record_is_gone_or_damaged_are_trained_again(
    text: str | None, finished: Graph, stand_in: Path, tmp_path: Path
) -> None:
    graph = copy_of(finished, tmp_path)
    record = graph.folder / RESULTS / "pretrain/pca/seed0/run.json"
    record.unlink() if text is None else record.write_text(text)
    graph.edit("config.yaml", 'title: "Training"', 'title: "Curves"')
    assert jobs_of_why(graph, target="training") == {"pretrain/pca/seed0", "figures/training"}
    done = run(graph, stand_in, "training")
    assert (done.status, done.ran) == (0, Counter(["pretrain/pca/seed0", "figures/training"])), done.said


def test_a_seed_that_the_study_does_not_name_is_compared_with_its_inputs_too(
    finished: Graph, stand_in: Path, tmp_path: Path
) -> None:
    graph = copy_of(finished, tmp_path)
    probe = RESULTS / "probe/pca/seed7/probe.json"
    whole = runs_of("pca", seed=7) | {"tokenizers/pca/seed7"}
    assert run(graph, stand_in, str(probe)).ran == Counter(whole)
    assert run(graph, stand_in, str(probe)).ran == Counter()
    (graph.folder / probe).write_text("{")
    assert run(graph, stand_in, str(probe)).ran == Counter(["probe/pca/seed7"])
    manifest = graph.folder / RESULTS / "dataset/manifest.json"
    write_json(manifest, read_json(manifest) | {"sha256": {"images_checksums.npy": "other"}})
    assert run(graph, stand_in, str(probe)).ran == Counter(whole)


@pytest.fixture(scope="module")
def every_rule(stand_in: Path, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """All results of the study that needs every rule."""
    graph = Graph.fresh(tmp_path_factory.mktemp("every_rule"), "every_rule.yaml")
    shutil.rmtree(graph.folder / "ldae")
    (graph.folder / "ldae").symlink_to(ROOT / "ldae")
    done = run(graph, stand_in, "all")
    assert done.status == 0, done.said
    return graph


ANY_EDIT = (
    ("config.yaml", "probe: 57.5", "probe: 58.5"),
    ("config.yaml", "tokenizer.dim: 16", "tokenizer.dim: 12"),
    ("config.yaml", "[8, 32]", "[8, 16, 32]"),
    ("config.yaml", "[0, 1]", "[0, 1, -1]"),
    ("config.yaml", "finetune: true", "finetune: false"),
    ("config.yaml", "denoise: ", "denoise: 1"),
    ("config.yaml", 'title: "Samples"', 'title: "S"'),
    ("config.yaml", 'title: "Training"', 'title: "T"'),
    ("scales/smoke.yaml", "num: 100", "num: 150"),
    ("scales/smoke.yaml", "vgg: {width: 4", "vgg: {width: 8"),
    ("scales/smoke.yaml", "resnet: {width: 4", "resnet: {width: 8"),
    ("scales/smoke.yaml", "finetuning: {steps: 12", "finetuning: {steps: 13"),
)


@pytest.mark.parametrize("draw", range(12))
def test_whatever_is_gone_damaged_or_edited_why_and_snakemake_agree(
    draw: int, every_rule: Graph, stand_in: Path, tmp_path: Path
) -> None:
    graph, chance = copy_of(every_rule, tmp_path), random.Random(draw)
    jobs = Jobs(Study.load(graph.folder, {}), graph.folder).jobs.values()
    files = [path for job in jobs for path in (job.record, *job.files) if path.is_file()]
    for path in chance.sample(files, chance.choice((0, 1, 2, 5))):
        path.unlink()
    records = [path for path in files if path.suffix == ".json" and path.is_file()]
    for path in chance.sample(records, chance.choice((0, 1))):
        path.write_text(chance.choice(("", "{", "[]")))
    for edit in chance.sample(ANY_EDIT, chance.choice((0, 1, 2))):
        graph.edit(*edit)
    target = chance.choice(("all", "all", "main", "all_tables", "all_figures", "report", "samples", "claims"))
    expected = jobs_of_why(graph, target=target)
    done = run(graph, stand_in, target)
    assert (done.status, done.ran) == (0, Counter(expected)), done.said
    assert jobs_of_why(graph, target=target) == set()
