"""Results that add up: seeds of two folders, packed and merged into a third, as if one folder had computed all."""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forked import forked
from graph import RESULTS, ROOT, Graph, kill_group
from stand_in import served
from test_staleness import EDITS, copy_of, jobs_of_why, run, snapshot

from ldae.overview import merge as merging
from ldae.overview.merge import merge
from ldae.overview.pack import HEADER, LARGEST, pack, summary
from ldae.overview.plan import plan
from ldae.overview.state import State
from ldae.overview.status import status
from ldae.runtime.files import parse_json, read_json, record_text, write_json
from ldae.runtime.process import started_seconds
from ldae.study.graph import Graph as Jobs
from ldae.study.study import Study

SEEDS = ("--config", "seeds=[0,1]")
VIEWS = {"tables/table3", "figures/figure6", "tables/claims", "tables/cost", "tables/cost_all", "report_main", "report"}


def project(folder: Path, study: str = "study.yaml") -> Graph:
    """A folder in which nothing has run yet."""
    graph = Graph.fresh(folder, study)
    shutil.rmtree(graph.folder / "ldae")
    (graph.folder / "ldae").symlink_to(ROOT / "ldae")  # which this process has imported already
    return graph


def study_of(graph: Graph) -> Study:
    return Study.load(graph.folder, {"seeds": [0, 1]})


def merged(graph: Graph, *packs: Path) -> merging.Merged:
    return merge(study_of(graph), graph.folder, packs)


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def views_of(graph: Graph) -> dict[str, bytes]:
    """The bytes of all tables, figures and pages, and of their records."""
    results = graph.folder / RESULTS
    paths = [path for folder in ("tables", "figures", ".") for path in (results / folder).glob("*.*")]
    return {str(path.relative_to(results)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an `ldae` that only writes records."""
    folder = tmp_path_factory.mktemp("bin")
    with served(folder):
        yield folder


def add_row(graph: Graph) -> set[str]:
    """Adds a row to the study; returns the jobs that it needs where nothing but merged results is there."""
    row = "  pca_d8:\n    from: pca\n    label: d = 8\n    set: {tokenizer.dim: 8}\n\ntables:"
    graph.edit("config.yaml", "\ntables:", row)
    graph.edit(*EDITS["new row"][:3])
    jobs = [job for job in Jobs(study_of(graph)).jobs.values() if not job.is_view]
    return {job.place for job in jobs if job.key.get("row") == "pca_d8" or job.stage in ("dataset", "tokenizer")}


@pytest.fixture(scope="module")
def packs(stand_in: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A pack of seed 0 and one of seed 1, each from a machine that has computed nothing else."""
    folder = tmp_path_factory.mktemp("packs")
    found = []
    for seed in (0, 1):
        graph = project(folder / f"machine{seed}")
        assert run(graph, stand_in, "all", "--config", f"seeds=[{seed}]").status == 0
        found.append(pack(study_of(graph), graph.folder, seed=seed, out=folder / f"seed{seed}.zip").path)
    return found


def edited(pack: Path, to: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of a pack whose files are changed."""
    with zipfile.ZipFile(pack) as file:
        files = {name: file.read(name) for name in file.namelist()}
    change(files)
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return to


def edit_record(files: dict[str, bytes], name: str, **changes: object) -> None:
    """Changes a record, whose checksum then fits again."""
    files[name] = record_text(parse_json(files[name], Path(name)) | changes).encode()


def test_of_merged_seeds_only_views_are_written_and_a_new_row_runs_alone(
    packs: list[Path], stand_in: Path, tmp_path: Path
) -> None:
    whole, other = project(tmp_path / "whole"), project(tmp_path / "other")
    assert run(whole, stand_in, "all", *SEEDS).status == 0
    assert len(merged(other, *packs).written) > 12
    assert (
        not list(other.folder.rglob("*.safetensors")) and not (other.folder / RESULTS / "dataset/images.npy").exists()
    )
    assert jobs_of_why(other, *SEEDS) == VIEWS
    done = run(other, stand_in, "all", *SEEDS)
    assert (done.status, done.ran) == (0, Counter(VIEWS)), done.said
    assert views_of(other) == views_of(whole)
    assert "Nothing left to do" in plan(study_of(other), other.folder, ["all"])
    assert status(study_of(other), other.folder, ["all"]) == "6 trainings at scale smoke: 6 done"

    new = add_row(other)
    done = run(other, stand_in, "all", *SEEDS)
    assert (done.status, done.ran) == (0, Counter(new | VIEWS)), done.said
    assert jobs_of_why(other, *SEEDS) == set()


def test_a_new_row_runs_alone_though_its_tokenizer_is_fitted_to_other_bytes_here(
    packs: list[Path], stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, third = project(tmp_path / "other"), project(tmp_path / "third")
    merged(other, *packs)
    new = add_row(other), add_row(third)
    monkeypatch.setenv("BYTES", "tokenizer:rounded otherwise")
    done = run(other, stand_in, "all", *SEEDS)
    assert (done.status, done.ran) == (0, Counter(new[0] | VIEWS)), done.said
    assert jobs_of_why(other, *SEEDS) == set()
    again = merged(other, *packs)
    assert again.written == [] and {result.job.stage for result in again.kept} == {"tokenizer"}
    merged(
        third, *(pack(study_of(other), other.folder, seed=seed, out=tmp_path / f"{seed}.zip").path for seed in (0, 1))
    )
    assert jobs_of_why(third, *SEEDS) == VIEWS

    weights = other.folder / RESULTS / "pretrain/pca/seed1/model.safetensors"
    weights.write_text("of the first fit")  # a probe through the second fit would be wrong
    assert {"pretrain/pca/seed1", "probe/pca/seed1"} <= jobs_of_why(other, *SEEDS)


def test_a_fit_that_all_seeds_share_may_not_differ(packs: list[Path], tmp_path: Path) -> None:
    own, shared = project(tmp_path / "own"), project(tmp_path / "shared")
    shared.edit("scales/smoke.yaml", "fitting:", "shared: [dataset, tokenizer]\nfitting:")
    for graph, expected in ((own, True), (shared, False)):
        state = State(Jobs(study_of(graph)))
        fits = [job for job in state.graph.jobs.values() if job.stage == "tokenizer"]
        assert len(fits) == 1 + expected
        assert [state.may_differ(job) for job in fits] == [expected] * len(fits)
        assert not any(state.may_differ(job) for job in state.graph.jobs.values() if job not in fits)


def test_of_a_merged_study_with_every_rule_only_the_tokenizers_whose_filters_are_drawn_run_again(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, other = (project(tmp_path / name, "every_rule.yaml") for name in ("machine", "other"))
    assert run(graph, stand_in, "all").status == 0
    study = Study.load(graph.folder, {})
    packed = pack(study, graph.folder, seed=0, out=tmp_path / "seed0.zip")
    merge(study, other.folder, [packed.path])
    results = other.folder / RESULTS
    weights = [str(path.relative_to(results)) for path in results.rglob("*.safetensors")]
    assert weights == ["classifiers/resnet/seed0/weights.safetensors"]  # all seeds must be judged by the same one
    views = {job.place for job in Jobs(study).jobs.values() if job.is_view}
    done = run(other, stand_in, "all")
    fits = {"tokenizers/patch_vae-32/seed0", "tokenizers/pca/seed0"}
    assert (done.status, done.ran) == (0, Counter(views | fits | {"dataset"})), done.said

    monkeypatch.setattr("ldae.overview.pack.SMALL", packed.path.stat().st_size - 100)
    smaller = pack(study, graph.folder, seed=0, out=tmp_path / "smaller.zip")
    assert smaller.pictures == 1 and len(smaller.jobs) == len(packed.jobs)
    assert "left out: 1 files of pictures" in summary(smaller, 0)
    assert smaller.path.stat().st_size < packed.path.stat().st_size


@pytest.mark.graph
def test_computed_seeds_of_two_folders_give_the_tables_of_one(tmp_path: Path) -> None:
    targets = ("table3", "figure6", "claims")
    whole, other = (Graph.fresh(tmp_path / name) for name in ("whole", "other"))
    whole.run(*targets, *SEEDS)
    found = []
    for seed in (0, 1):
        graph = Graph.fresh(tmp_path / f"machine{seed}")
        graph.run(*targets, "--config", f"seeds=[{seed}]")
        found.append(pack(study_of(graph), graph.folder, seed=seed, out=tmp_path / f"seed{seed}.zip").path)
    merged(other, *found)
    assert other.planned(*targets, *SEEDS) == {name: 1 for name in ("table", "figure", "claims", "table3", "figure6")}
    other.run(*targets, *SEEDS)
    assert views_of(other) == views_of(whole)

    for graph in (whole, other):
        add_row(graph)
        graph.run(*targets, *SEEDS)
    assert views_of(other) == views_of(whole)
    places = {path.parent.relative_to(other.folder / RESULTS) for path in other.folder.rglob("*.safetensors")}
    assert {place.parts[1] for place in places} == {"pca", "pca_d8"}  # the tokenizer, and the new row
    assert {place for place in places if place.parts[0] == "pretrain"} == {
        Path(f"pretrain/pca_d8/seed{seed}") for seed in (0, 1)
    }
    assert "Nothing to be done" in other.run(*targets, *SEEDS)


@pytest.mark.faults
def test_eight_seeds_that_two_folders_compute_between_kills_give_the_tables_of_one_run(tmp_path: Path) -> None:
    targets = ("table3", "figure6", "claims")
    whole, other = (Graph.fresh(tmp_path / name) for name in ("whole", "other"))
    whole.run(*targets, "--config", "seeds=0-7")
    found = []
    for seeds in ("0-3", "4-7"):
        graph = Graph.fresh(tmp_path / seeds)
        for records in (5, 15, 25):  # of 37
            process = graph.start(*targets, "--config", f"seeds={seeds}")
            while graph.num_records < records:
                assert process.poll() is None, graph.said.read_text()
                time.sleep(0.02)
            kill_group(process)
            process.wait(timeout=60)
        graph.run(*targets, "--config", f"seeds={seeds}")
        study = Study.load(graph.folder, {"seeds": seeds})
        for seed in study.file.seeds:
            found.append(pack(study, graph.folder, seed=seed, out=tmp_path / f"seed{seed}.zip").path)
    merge(Study.load(other.folder, {"seeds": "0-7"}), other.folder, found)
    other.run(*targets, "--config", "seeds=0-7")
    assert views_of(other) == views_of(whole)

    added = {"tokenizer": 1, "probe_pixels": 1, "pretrain": 3, "probe_untrained": 1, "probe": 3}
    views = {"table": 1, "figure": 1, "claims": 1, "table3": 1, "figure6": 1}
    assert whole.planned(*targets, "--config", "seeds=0-8") == added | views
    whole.run(*targets, "--config", "seeds=0-8")
    assert "Nothing to be done" in whole.run(*targets, "--config", "seeds=0-8")


def test_a_pack_of_merged_results_has_the_same_bytes(packs: list[Path], tmp_path: Path) -> None:
    other = project(tmp_path)
    merged(other, *packs)
    for seed, path in enumerate(packs):
        again = pack(study_of(other), other.folder, seed=seed, out=tmp_path / f"again{seed}.zip")
        assert again.path.read_bytes() == path.read_bytes()


def test_what_is_not_current_is_left_out_of_a_pack(packs: list[Path], tmp_path: Path) -> None:
    graph = copy_of(Graph(packs[0].parent / "machine0"), tmp_path)
    graph.edit("config.yaml", "objective.weight: signal", "objective.weight: uniform")
    (graph.folder / RESULTS / "probe/pca/seed0/correct.npz").unlink()
    packed = pack(study_of(graph), graph.folder, seed=0, out=tmp_path / "seed0.zip")
    rows = ("predict_clean", "single_level")
    outdated = {f"{stage}/{row}/seed0" for stage in ("pretrain", "probe") for row in rows}
    assert {job.place for job in packed.left_out} == outdated | {"probe/pca/seed0"}
    assert not any("predict_clean" in job.place for job in packed.jobs)


def test_a_seed_without_results_is_not_packed(packs: list[Path], tmp_path: Path) -> None:
    graph = Graph(packs[0].parent / "machine0")
    with pytest.raises(ValueError, match=r"smoke: has no current result of seed 7$"):
        pack(study_of(graph), graph.folder, seed=7, out=tmp_path / "seed7.zip")
    assert not (tmp_path / "seed7.zip").exists()


def test_a_damaged_file_is_not_packed(packs: list[Path], tmp_path: Path) -> None:
    graph = copy_of(Graph(packs[0].parent / "machine0"), tmp_path)
    (graph.folder / RESULTS / "probe/pca/seed0/correct.npz").write_text("other")
    with pytest.raises(ValueError, match=r"probe/pca/seed0/correct\.npz: is damaged"):
        pack(study_of(graph), graph.folder, seed=0, out=tmp_path / "seed0.zip")


@pytest.mark.parametrize("moment", range(0, 30, 3))
def test_a_merge_that_was_killed_is_repeated(
    moment: int, packs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, other = project(tmp_path / "whole"), project(tmp_path / "other")
    merged(whole, *packs)
    (other.folder / RESULTS / "pretrain/pca/seed0").mkdir(parents=True)
    (other.folder / RESULTS / "pretrain/pca/seed0/model.safetensors").write_text("of a training that was killed")
    left, write = [moment], merging.write_bytes

    def interrupted(path: Path, content: bytes) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(merging, "write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            merged(other, *packs)
    state = State(Jobs(study_of(other), other.folder))
    for job in state.graph.jobs.values():  # whatever has its record is whole
        if state.record_of(job) is not None:
            assert not [path for path in state.missing(job) if path.suffix in (".npz", ".csv")]
    merged(other, *packs)
    assert contents(other.folder / RESULTS) == contents(whole.folder / RESULTS)
    assert merged(other, *packs).written == []


def test_a_result_that_differs_is_never_replaced(packs: list[Path], tmp_path: Path) -> None:
    other = project(tmp_path)
    merged(other, packs[0])
    record = other.folder / RESULTS / "probe/pca/seed0/probe.json"
    write_json(record, read_json(record) | {"accuracy": 0.5, "provenance": {"device": "a slow processor"}})
    before = snapshot(other.folder / RESULTS)
    with pytest.raises(ValueError, match=r"probe\.json: is there already \(computed on a slow processor\) and differs"):
        merged(other, *packs)
    assert snapshot(other.folder / RESULTS) == before


def test_a_result_that_is_being_computed_here_is_not_merged(packs: list[Path], tmp_path: Path) -> None:
    other = project(tmp_path)
    lock = other.folder / RESULTS / "resume/pretrain/pca/seed0/lock"
    lock.parent.mkdir(parents=True)
    about = {"host": os.uname().nodename, "pid": os.getpid(), "started": started_seconds(), "locks": None}
    lock.write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"pretrain pca, seed 0: is being computed on .*; nothing was merged"):
        merged(other, *packs)
    lock.unlink()
    assert merged(other, *packs).written


def test_results_that_were_computed_from_other_ones_are_refused(packs: list[Path], tmp_path: Path) -> None:
    other = project(tmp_path)
    merged(other, packs[0])
    record = other.folder / RESULTS / "dataset/manifest.json"
    (other.folder / RESULTS / "dataset/groups.npy").unlink()
    for path in (other.folder / RESULTS).glob("*/*/*/*.json"):
        path.unlink()
    changed = read_json(record)["sha256"] | {"images_checksums.npy": "other"}
    write_json(record, read_json(record) | {"sha256": changed})
    before = snapshot(other.folder / RESULTS)
    with pytest.raises(ValueError, match=r"dataset/manifest\.json: is there already"):
        merged(other, packs[1])
    with pytest.raises(ValueError, match="does not belong to .*computed from another dataset"):
        without = edited(packs[1], tmp_path / "a.zip", lambda files: [files.pop(n) for n in [*files] if "dataset" in n])
        merged(other, without)
    assert snapshot(other.folder / RESULTS) == before


def test_an_outdated_result_is_replaced_with_all_its_files(packs: list[Path], stand_in: Path, tmp_path: Path) -> None:
    graph = copy_of(Graph(packs[1].parent / "machine0"), tmp_path)
    graph.edit("scales/smoke.yaml", "steps: 40", "steps: 41")
    newer = copy_of(graph, tmp_path / "newer")
    assert run(newer, stand_in, "all").status == 0
    fresh = pack(study_of(newer), newer.folder, seed=0, out=tmp_path / "seed0.zip").path
    merged(graph, fresh)
    assert jobs_of_why(graph) == VIEWS
    assert not (graph.folder / RESULTS / "pretrain/pca/seed0/model.safetensors").exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("scales/smoke.yaml", "steps: 40", "steps: 41"), r"pretrain: training\.steps 40 -> 41 \(pack -> study\)"),
        (("config.yaml", "probe: 4,", "probe: 5,"), r"probe: revision 4 -> 5 \(pack -> study\)"),
        (("config.yaml", "  pca:\n", "  base:\n"), "'pretrain/pca/seed0/.*', which no job of this study writes"),
    ],
)
def test_results_of_another_study_are_refused(
    edit: tuple[str, str, str], message: str, packs: list[Path], tmp_path: Path
) -> None:
    other = project(tmp_path)
    other.edit(*edit)
    if edit[2] == "  base:\n":
        other.edit("config.yaml", "from: pca", "from: base")
        other.edit("config.yaml", "[pca,", "[base,")
        other.edit("config.yaml", "{pca: 1", "{base: 1")
    with pytest.raises(ValueError, match=message):
        merged(other, *packs)
    assert not (other.folder / "results").exists()


CHANGES: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "outside": (
        lambda files: files.update({"../../../evil.txt": b""}),
        r"contains '\.\./\.\./\.\./evil\.txt', which no",
    ),
    "absolute": (lambda files: files.update({"/tmp/evil.txt": b""}), "contains '/tmp/evil.txt', which no"),
    "detour": (
        lambda files: files.update({"probe/../probe/pca/seed0/probe.json": b""}),
        "which no job of this study writes",
    ),
    "weights": (
        lambda files: files.update({"pretrain/pca/seed0/model.safetensors": b"x"}),
        r"model\.safetensors: is damaged: its SHA-256",
    ),
    "content": (
        lambda files: files.update({"probe/pca/seed0/correct.npz": b"x"}),
        r"seed0\.zip/probe/pca/seed0/correct\.npz: is damaged: its SHA-256 differs",
    ),
    "record": (
        lambda files: files.update({"probe/pca/seed0/probe.json": b"{}"}),
        r"seed0\.zip/probe/pca/seed0/probe\.json: is damaged or was edited",
    ),
    "no record": (lambda files: files.pop("probe/pca/seed0/probe.json"), "lies there without its record"),
    "no header": (lambda files: files.pop(HEADER), r"is not a pack, or is damaged \(it contains no pack\.json\)"),
    "newer format": (lambda files: edit_record(files, HEADER, format=2), "another version packed it"),
    "other scale": (
        lambda files: edit_record(files, HEADER, scale="gpu"),
        "scale gpu, not smoke; merge it with --scale",
    ),
    "other study": (lambda files: edit_record(files, HEADER, study="mine"), "results of the study mine, not of config"),
    "other row": (
        lambda files: edit_record(files, "probe/pca/seed0/probe.json", row="other"),
        "is the result of other, seed 0",
    ),
    "huge": (lambda files: files.update({"huge": bytes(LARGEST + 1)}), "its files have more than 67,108,864 bytes"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_of_a_pack_with_a_mistake_is_written(name: str, packs: list[Path], tmp_path: Path) -> None:
    other, (change, message) = project(tmp_path / "other"), CHANGES[name]
    with pytest.raises(ValueError, match=message) as error:
        merged(other, packs[1], edited(packs[0], tmp_path / "seed0.zip", change))
    assert "\n" not in str(error.value)
    assert not (other.folder / "results").exists()


def test_bytes_that_changed_on_the_way_are_noticed(packs: list[Path], tmp_path: Path) -> None:
    whole, other, content = project(tmp_path / "whole"), project(tmp_path / "other"), packs[0].read_bytes()
    merged(whole, packs[0])
    for place in range(10, len(content), len(content) // 25):
        (tmp_path / "seed0.zip").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            merged(other, tmp_path / "seed0.zip")
        except ValueError as error:
            assert str(error).startswith(f"{tmp_path / 'seed0.zip'}")
            assert not (other.folder / "results").exists()
        else:  # the byte was one without a meaning, such as a part of a date
            assert contents(other.folder / RESULTS) == contents(whole.folder / RESULTS)
            shutil.rmtree(other.folder / "results")
    (tmp_path / "seed0.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"seed0\.zip: is not a pack"):
        merged(other, tmp_path / "seed0.zip")


def test_the_commands_say_what_they_did_in_a_line_each(packs: list[Path], tmp_path: Path) -> None:
    source, other = copy_of(Graph(packs[0].parent / "machine0"), tmp_path / "a"), project(tmp_path / "b")
    packed = forked("pack", "results/smoke", "--seed", "0", folder=source.folder)
    path = source.folder / RESULTS / "packs/seed0.zip"
    with zipfile.ZipFile(path) as file:
        number = sum(name.endswith(".json") for name in file.namelist()) - 1  # the header is none
    assert packed.stdout.startswith(f"results/smoke/packs/seed0.zip: {number} results of seed 0"), packed.stderr
    assert path.read_bytes() == packs[0].read_bytes()
    said = forked("merge", str(path), folder=other.folder).stdout
    assert said == f"{number} results merged into results/smoke ({number - 1} of seed 0)\n"  # and the images
    said = forked("merge", str(path), folder=other.folder).stdout
    assert said == f"0 results merged into results/smoke\n{number} were there already\n"
    failed = forked("pack", "results/laptop", "--seed", "0", "--scale", "smoke", folder=source.folder)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "results/laptop: is not the results folder of this study at scale smoke" in failed.stderr
