from __future__ import annotations

import ast
from pathlib import Path

import pytest
from rows import ROOT, STUDY

from ldae.overview.state import State, needrun
from ldae.overview.status import why
from ldae.runtime.files import checksums, write_json
from ldae.study.checking import StudyError
from ldae.study.graph import Graph, Job
from ldae.study.record import CODE, PACKAGE, content, differences, digest, place_of
from ldae.study.study import Study


def finish(job: Job, **changed: dict[str, object]) -> None:
    """Leaves the files and the record of a job, with some stages of its lineage changed."""
    for path in job.files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_json(job.record, {"lineage": job.lineage | changed, "title": job.title})


@pytest.fixture
def finished(tmp_path: Path) -> Graph:
    """All results of Table 3 and of what it depends on, as the study says now."""
    graph = Graph(STUDY, tmp_path)
    for job in graph.all_jobs_for(["table3"]):
        finish(job)
    return graph


def again(graph: Graph) -> State:
    """The state of its results, looked at anew."""
    return State(graph)


def test_differences_name_the_stage_the_key_and_both_values() -> None:
    before = {
        "dataset": {"revision": 1, "spec": {"size": 64}},
        "probe": {"revision": 1, "spec": {"probing": {"epochs": 5}}},
    }
    after = {
        "dataset": {"revision": 2, "spec": {"size": 64}},
        "probe": {"revision": 1, "spec": {"probing": {"epochs": 9}}},
    }
    assert differences(before, after) == ["dataset: revision 1 -> 2", "probe: probing.epochs 5 -> 9"]
    assert differences(before, before) == []
    assert differences({}, {"vgg": before["dataset"]}) == ["vgg: is new"]
    assert differences({"probe": {"revision": 1, "spec": {}}}, {"probe": before["probe"]}) == [
        "probe: probing.epochs default -> 5"
    ]


def test_a_reason_is_short_whatever_differs() -> None:
    def of(stage: str, **spec: object) -> dict[str, dict[str, object]]:
        return {stage: {"revision": 1, "spec": spec}}

    before, after = ([f"probe/row{number}/seed{seed}" for number in range(100)] for seed in (0, 1))
    said = ["cost: shows other results than the study asks for now"]
    assert differences(of("cost", results=before), of("cost", results=after)) == said
    (reason,) = differences(of("report", text="a" * 5000), of("report", text="b" * 5000))
    assert reason.startswith('report: text "aaa') and len(reason) < 200


def test_where_files_lie_is_no_difference() -> None:
    here, there = ({"dataset": {"revision": 1, "spec": {"path": path, "size": 64}}} for path in ("/a", "/b"))
    assert differences(here, there) == []
    assert digest(here) == digest(there)


def test_when_and_where_a_result_was_computed_does_not_change_its_content() -> None:
    about = {"row": "pca", "top1": 0.5, "provenance": {"host": "a"}}
    assert content(about) == content(about | {"provenance": {"host": "b"}, "inputs": {"dataset": "x"}})
    assert content(about) != content(about | {"top1": 0.6})


def test_of_a_manifest_the_images_count_and_not_where_they_came_from() -> None:
    about = {
        "counts": {},
        "size": 64,
        "classes": ["a"],
        "sha256": {"images_checksums.npy": "1"},
        "sources": {"files": 3},
    }
    assert content(about) == content(about | {"sources": {"files": 4}, "pillow": "13"})
    assert content(about) != content(about | {"sha256": {"images_checksums.npy": "2"}})


def test_why_gathers_jobs_by_their_reason_and_counts_views(finished: Graph, tmp_path: Path) -> None:
    assert why(STUDY, tmp_path, ["table3"]).startswith("Nothing would run")
    probe = finished.jobs["probe/ldae/seed0"]
    finish(probe, probe=probe.lineage["probe"] | {"revision": 9})
    now = STUDY.file.revisions["probe"]
    assert why(STUDY, tmp_path, ["table3"]) == f"probe: revision 9 -> {now}\n    2 jobs: probe ldae, seed 0; table3"
    finished.jobs["probe/pca/seed0"].record.unlink()
    assert "has not run yet\n    1 job: probe pca, seed 0" in why(STUDY, tmp_path, ["table3"])


def test_a_row_is_wanted_with_all_that_tables_show_of_it(tmp_path: Path) -> None:
    graph = Graph(STUDY, tmp_path)
    places = {job.place for job in graph.jobs_for(["dit"])}
    assert places == {"probe/dit/seed0", "untrained/dit/seed0", "judge/dit/seed0"}
    assert {job.place for job in graph.jobs_for(["figure6"])} == {"figures/figure6"}
    with pytest.raises(StudyError, match="'figur6' is not a target or row .did you mean 'figure6'"):
        graph.jobs_for(["figur6"])


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_damaged_record_counts_as_none(text: str, finished: Graph) -> None:
    record = finished.jobs["probe/pca/seed0"].record
    record.write_text(text)
    state = again(finished)
    assert state.to_run(["table3"]) == {}
    assert {job.place: reason for job, reason in state.to_run(["pca"]).items()} == {
        "probe/pca/seed0": "its record is damaged"
    }


def test_a_result_in_the_folder_of_another_row_or_seed_is_outdated(finished: Graph) -> None:
    """As after a row was renamed together with its folder, or a seed's folder was copied for another seed."""
    job = finished.jobs["probe/pca/seed0"]
    for owner, said in (({"row": "pica"}, "pica, seed 0"), ({"seed": 3}, "pca, seed 3")):
        write_json(job.record, {"lineage": job.lineage, "row": "pca", "seed": 0} | owner)
        assert list(again(finished).to_run(["pca"]).values()) == [f"probe: is the result of {said}"]
    write_json(job.record, {"lineage": job.lineage, "row": "pca", "seed": 0})
    assert again(finished).to_run(["pca"]) == {}


@pytest.mark.parametrize("ending", ["md", "csv", "tex"])
def test_a_table_that_is_not_as_it_was_written_is_outdated(ending: str, finished: Graph) -> None:
    """As where a job was killed between a table and its record, and the study was edited back."""
    table = finished.jobs["tables/table3"]
    write_json(table.record, {"lineage": table.lineage, "sha256": checksums(*table.files)})
    assert again(finished).to_run(["table3"]) == {}
    table.record.with_suffix(f".{ending}").write_text("| of another study |")
    assert list(again(finished).to_run(["table3"]).values()) == [f"table: table3.{ending} is not as it was written"]


def test_needed_jobs_are_found_through_a_current_result() -> None:
    """A table reads a record whose own input is gone: the input stays away until somebody reads it."""
    reads = {"table": {"probe": ["probe.json"]}, "probe": {"run": ["weights"]}, "run": {}}
    jobs = ["table", "probe", "run"]

    def found(outdated: set[str], missing: set[str], wanted: dict[str, list[str]]) -> set[str]:
        return needrun(
            jobs,
            reads=reads.__getitem__,
            is_outdated=outdated.__contains__,
            is_missing=missing.__contains__,
            follows=lambda job: job == "table",
            wanted=wanted,
        )

    target = {"table": ["table.md"]}
    assert found(set(), {"weights"}, target) == set()
    assert found(set(), {"weights", "probe.json"}, target) == set()
    assert found(set(), {"weights", "table.md"}, target) == {"table"}
    assert found({"probe"}, {"weights"}, target) == {"table", "probe", "run"}
    assert found(set(), {"weights"}, {"run": ["weights"]}) == {"run"}


# What readers share with all stages, whose edits change no view: how jobs run, and the vocabulary.
SHARED = ("runtime/", "study/")


@pytest.mark.parametrize("stage", CODE)
def test_a_view_follows_all_code_that_writes_it(stage: str) -> None:
    files = {path for pattern in CODE[stage] for path in PACKAGE.glob(pattern) if path.suffix == ".py"}
    assert files
    imported = {
        f"{node.module}/{alias.name}" if node.module == "ldae" else str(node.module)
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ldae")
        for alias in node.names
    }
    imported = {name.replace(".", "/").removeprefix("ldae/") for name in imported}
    needed = {name for name in imported if name and (not name.startswith(SHARED) or name == "study/schedules")}
    covered = {str(path.relative_to(PACKAGE).with_suffix("")).removesuffix("/__init__") for path in files}
    assert needed <= covered


def test_every_result_is_that_of_the_job_that_writes_its_record() -> None:
    """Also a figure whose name is that of a stage's record, e.g. `figures/samples.json`."""
    graph = Graph(Study.load(ROOT, {"study": str(ROOT / "tests/every_rule.yaml")}))
    assert "figures/samples" in graph.jobs
    for job in graph.jobs.values():
        assert graph.producer([*job.files, job.record]) is job
        assert place_of(job.record, graph.results) == job.place
