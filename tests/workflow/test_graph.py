from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from graph import RESULTS, Graph, kill_group
from PIL import Image, ImageColor
from test_staleness import STATES

from ldae.runtime.files import read_json

pytestmark = pytest.mark.graph

KILLS = 5
ROWS = 3
PROBED = {  # what follows from another setting or revision of the probe; the rows share an untrained network
    "probe": ROWS,
    "probe_untrained": 1,
    "probe_pixels": 1,
    "table": 1,
    "figure": 1,
    "cost_table": 1,
    "page": 1,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    graph = Graph.fresh(tmp_path_factory.mktemp("finished"))
    graph.run()
    return graph


@pytest.fixture
def edited(finished: Graph) -> Iterator[Graph]:
    """The finished graph, whose study and scales a test may edit."""
    saved = {path: path.read_bytes() for path in [finished.folder / "config.yaml", *finished.folder.glob("scales/*")]}
    yield finished
    for path, content in saved.items():
        path.write_bytes(content)


def test_one_command_leaves_tables_and_figures(finished: Graph) -> None:
    results = finished.folder / RESULTS
    for file in ("tables/table3.md", "tables/table3.csv", "tables/table3.tex", "tables/cost.md"):
        assert (results / file).stat().st_size > 100
    for file in ("figures/figure6.png", "figures/figure6.svg", "figures/figure6.csv"):
        assert (results / file).stat().st_size > 100
    assert 'id="table-table3"' in (results / "report_main.html").read_text()
    table = (results / "tables/table3.md").read_text()
    labels = ["patch-wise PCA baseline", "+ predict clean data", "single noise level"]
    assert [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:] == labels


def test_a_second_run_has_nothing_to_do(finished: Graph) -> None:
    assert "Nothing to be done" in finished.run()


def test_a_row_shows_what_it_has_reached(finished: Graph) -> None:
    command = [sys.executable, "-m", "ldae.cli", "show", "pca"]
    said = subprocess.run(command, cwd=finished.folder, capture_output=True, text=True, check=True).stdout
    accuracy = pd.read_csv(finished.folder / RESULTS / "tables/table3.csv").set_index("name").loc["pca", "accuracy"]
    assert f"done: {100 * accuracy:.1f} %" in said


def test_every_rule_and_every_kind_of_view_runs(tmp_path: Path) -> None:
    graph = Graph.fresh(tmp_path, "every_rule.yaml")
    graph.run("all")
    results = graph.folder / RESULTS
    study = yaml.safe_load((graph.folder / "config.yaml").read_text())
    endings = {"tables": (".md", ".csv", ".tex"), "figures": (".png", ".svg", ".csv")}
    for kind, parts in endings.items():
        for name in study[kind]:
            assert all((results / kind / f"{name}{ending}").stat().st_size > 100 for ending in parts), name
    first_run = min(run.stat().st_mtime for run in results.glob("pretrain/*/*/run.json"))
    assert (results / "figures/figure3.png").stat().st_mtime < first_run  # something to look at, before all training
    started = {run: read_json(run)["provenance"]["started"] for run in results.glob("pretrain/*/*/run.json")}
    vgg = read_json(results / "classifiers/vgg/seed0/classifier.json")["provenance"]["started"]
    assert vgg < min(started.values())  # the longest chain of jobs begins with it
    pixels = read_json(results / "pixels/seed0/probe.json")["provenance"]["started"]
    assert pixels < min(started.values())  # the first table has them
    page = (results / "report.html").read_text()
    assert all(f'id="table-{name}"' in page for name in study["tables"])
    assert all(f'id="figure-{name}"' in page for name in study["figures"])
    assert "No record of its runs" not in page and "Not made yet" not in page
    claims = pd.read_csv(results / "tables/claims.csv")
    assert claims["name"].tolist() == list(study["claims"])
    rows = pd.read_csv(results / "tables/table1.csv").set_index("name")
    assert rows["distance_infinite"].notna().tolist() == [True, True, False, False, True, False]
    assert "The perceptual loss (builtin)" in (results / "tables/table1.md").read_text()
    assert "Nothing to be done" in graph.run("all")


def test_tables_and_figures_are_targets_by_name(finished: Graph) -> None:
    for target, rule in (("table3", "table"), ("figure6", "figure")):
        assert finished.planned(target, "--forcerun", rule) == {rule: 1, target: 1}


def test_editing_a_row_reruns_it_and_its_descendants(edited: Graph) -> None:
    edited.edit("config.yaml", "objective.predict: clean, ", "objective.predict: clean, noise.schedule: ddpm, ")
    # single_level starts from the edited row, but overrides the schedule, so its own configuration stays as it was
    assert edited.planned() == {"pretrain": 1, "probe": 1, "table": 1, "figure": 1, "cost_table": 1, "page": 1}


def test_editing_a_row_reruns_descendants_that_inherit_the_change(edited: Graph) -> None:
    edited.edit("config.yaml", "objective.weight: signal", "objective.weight: uniform")
    assert edited.planned() == {"pretrain": 2, "probe": 2, "table": 1, "figure": 1, "cost_table": 1, "page": 1}


@pytest.mark.parametrize(
    ("old", "new"), [("label: + predict clean data", "label: + clean targets"), ("probe: 62.4", "probe: 62.5")]
)
def test_editing_a_label_or_a_paper_number_reruns_tables_alone(edited: Graph, old: str, new: str) -> None:
    edited.edit("config.yaml", old, new)
    assert edited.planned() == {"table": 1, "figure": 1, "page": 1}


def test_adding_a_row_runs_that_row_alone(edited: Graph) -> None:
    row = "  pca_d8:\n    from: pca\n    label: d = 8\n    set: {tokenizer.dim: 8}\n\ntables:"
    edited.edit("config.yaml", "\ntables:", row)
    edited.edit("config.yaml", '"Three rows"\n    rows: [pca,', '"Three rows"\n    rows: [pca_d8, pca,')
    assert edited.planned("table3") == {"pretrain": 1, "probe_untrained": 1, "probe": 1, "table": 1, "table3": 1}


def test_adding_a_seed_runs_that_seed_alone(edited: Graph) -> None:
    assert edited.planned("table3", "--config", "seeds=[0,1]") == {
        "tokenizer": 1,
        "probe_pixels": 1,
        "pretrain": ROWS,
        "probe_untrained": 1,
        "probe": ROWS,
        "table": 1,
        "table3": 1,
    }


def test_editing_a_probe_setting_trains_nothing(edited: Graph) -> None:
    edited.edit("scales/smoke.yaml", "epochs: 5", "epochs: 6")
    assert edited.planned() == PROBED


def test_editing_the_number_of_steps_reruns_all_pretraining(edited: Graph) -> None:
    edited.edit("scales/smoke.yaml", "steps: 40", "steps: 41")
    assert edited.planned() == {"pretrain": ROWS, "probe": ROWS, "table": 1, "figure": 1, "cost_table": 1, "page": 1}


def test_editing_what_a_job_asks_of_the_machine_reruns_nothing(edited: Graph) -> None:
    edited.edit("scales/smoke.yaml", "mem_mb: 1500", "mem_mb: 1600")
    assert edited.planned() == {}


def test_raising_a_revision_reruns_its_stage_and_what_follows(edited: Graph) -> None:
    edited.edit("config.yaml", "probe: 4,", "probe: 5,")
    assert edited.planned() == PROBED


def test_a_table_refuses_results_of_another_specification_and_leaves_the_one_before(
    finished: Graph, tmp_path: Path
) -> None:
    graph = Graph(shutil.copytree(finished.folder, tmp_path / "copy"))
    graph.edit("config.yaml", "objective.weight: signal", "objective.weight: uniform")
    process = graph.start("table3", "--allowed-rules", "table", "--show-failed-logs")
    assert process.wait(timeout=120) != 0
    assert "made from another specification than the study's now" in graph.said.read_text()
    assert graph.tables() == finished.tables()


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_in_whatever_state_results_come_an_edited_row_runs_and_no_other(
    state: Callable[[Graph], set[str]], finished: Graph, tmp_path: Path
) -> None:
    graph = Graph(shutil.copytree(finished.folder, tmp_path / "copy"))
    before = {
        path.parent.parent.name: read_json(path) for path in graph.folder.glob(f"{RESULTS}/pretrain/*/*/run.json")
    }
    state(graph)
    graph.edit("config.yaml", "objective.predict: clean, ", "objective.predict: clean, noise.schedule: ddpm, ")
    graph.run()
    after = {path.parent.parent.name: read_json(path) for path in graph.folder.glob(f"{RESULTS}/pretrain/*/*/run.json")}
    started = {
        row: (about["provenance"]["started"], after[row]["provenance"]["started"]) for row, about in before.items()
    }
    assert {row for row, (old, new) in started.items() if old != new} == {"predict_clean"}
    assert after["predict_clean"]["lineage"]["pretrain"]["spec"]["noise"] == {"schedule": "ddpm"}
    assert "Nothing to be done" in graph.run()


def test_pictures_that_changed_under_the_same_path_are_prepared_and_trained_on_again(tmp_path: Path) -> None:
    graph = Graph.fresh(tmp_path / "graph", "study.yaml")
    pictures = tmp_path / "pictures"
    draw(pictures, ["red", "green", "blue"], num=24)
    (graph.folder / "scales/mine.yaml").write_text(
        f"from: smoke\ndataset: {{source: folder, path: {pictures}, size: 64, val_fraction: 0.25}}\n"
    )
    scale = ("--config", "scale=mine")
    results = graph.folder / "results/mine"
    graph.run("table3", *scale)
    first = read_json(results / "pretrain/pca/seed0/run.json")
    shutil.copytree(pictures, tmp_path / "elsewhere")  # with other times
    assert graph.planned("table3", *scale) == {}
    graph.edit("scales/mine.yaml", str(pictures), str(tmp_path / "elsewhere"))
    assert graph.planned("table3", *scale) == {}
    draw(tmp_path / "elsewhere", ["cyan", "magenta", "yellow"], num=30)
    said = graph.dry_run("table3", *scale)
    assert f"the pictures in {tmp_path / 'elsewhere'} differ from those that were prepared" in said
    graph.run("table3", *scale)
    second = read_json(results / "pretrain/pca/seed0/run.json")
    assert first["lineage"].keys() == second["lineage"].keys()
    assert first["inputs"] != second["inputs"] and first["sha256"] != second["sha256"]
    assert "6 classes" not in said and len(read_json(results / "dataset/manifest.json")["classes"]) == 6
    assert graph.planned("table3", *scale) == {}


def draw(folder: Path, colours: list[str], *, num: int) -> None:
    """Writes pictures of a colour with noise, a folder for each colour."""
    rng = np.random.default_rng(len(colours) * num)
    for colour in colours:
        (folder / colour).mkdir(parents=True, exist_ok=True)
        for number in range(num):
            noise = rng.integers(-40, 40, (80, 80, 3))
            pixels = (np.array(ImageColor.getrgb(colour)) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / colour / f"{number}.png")


def test_a_mistake_in_the_study_is_one_line(edited: Graph) -> None:
    edited.edit("config.yaml", "objective.predict: clean", "objective.predict: cleen")
    assert edited.start("--dry-run", "--quiet").wait(timeout=60) != 0
    said = edited.said.read_text().splitlines()
    lines = [line for line in said if not line.startswith("Using workflow specific profile")]
    assert len(lines) == 1
    assert all(word in lines[0] for word in ("config.yaml", "predict_clean", "objective.predict", "cleen", "'clean'"))


@pytest.mark.parametrize(("target", "message"), [("tabel3", "did you mean 'table3'?"), ("pca", "ldae run pca")])
def test_a_mistaken_target_is_answered_with_the_right_one(target: str, message: str, finished: Graph) -> None:
    assert finished.start("--dry-run", "--quiet", "rules", "--", target).wait(timeout=60) != 0
    assert message in finished.said.read_text().splitlines()[-1]


@pytest.mark.parametrize("victim", ["group", "driver", "job"])
def test_killed_at_any_moment_and_started_again_it_ends_in_the_same_bytes(
    victim: str, finished: Graph, tmp_path: Path
) -> None:
    """SIGKILL hits once in each fifth of the work, each time followed by a plain start; no lock is removed by hand."""
    graph, moments = Graph.fresh(tmp_path), random.Random(victim)
    share = finished.num_records / KILLS
    kills = 0
    for number in range(KILLS):
        process = graph.start()
        while process.poll() is None and graph.num_records < number * share:
            time.sleep(0.05)
        kills += _kill(graph, process, victim, moments.uniform(0.0, 2.0))
        process.wait(timeout=120)
        graph.wait_for_jobs_to_end()
    assert kills >= 2, "most of the kills came too late"
    graph.run()
    assert graph.tables() == finished.tables()


def _kill(graph: Graph, process: subprocess.Popen[bytes], victim: str, seconds: float) -> bool:
    """Kills the victim some seconds after a job is first seen; False if the run has ended by then."""
    while not graph.jobs() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(seconds)
    if victim == "job":
        while not (jobs := graph.jobs()) and process.poll() is None:
            time.sleep(0.02)
        try:
            os.kill(random.choice(jobs), signal.SIGKILL)
        except (IndexError, ProcessLookupError):
            return False
    elif process.poll() is not None:
        return False
    elif victim == "group":
        kill_group(process)
    else:
        os.kill(process.pid, signal.SIGKILL)
    return True
