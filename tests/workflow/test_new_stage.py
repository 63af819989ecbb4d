"""A new stage is an entry with what it reads, a revision, a function and a rule; all else follows from the entry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from graph import Graph

pytestmark = pytest.mark.graph

HELPERS = Path(__file__).parents[1] / "helpers"
ENTRY = """    Stage(
        name="norms",
        help="the mean norm of a trained row's weights",
        specs=("NormsStage",),
        files=("norms.npy",),
        serving=lambda study, row: study.runs[row],
        inputs={"model": "pretrain/{row}/seed{seed}"},
        options=("row",),
        cost=lambda costs, key: Cost(flops=2e6 * costs.tokens),
        is_result=True,
    ),
)
STAGES = {"""
SPEC = '''

class NormsStage(StageSpec):
    """What the norms depend on, beside the weights."""

    order: Positive = 2
'''
FUNCTION = """
from ldae.runtime.files import atomic_write, checksums, read_json, write_json
from ldae.study.record import inputs_of, lineage, provenance
from safetensors.numpy import load_file
import numpy as np


def norms(stage, *, row, revision, model, out):
    found = [np.linalg.norm(tensor.ravel(), stage.order) for tensor in load_file(model / "model.safetensors").values()]
    with atomic_write(out / "norms.npy") as partial, partial.open("wb") as file:
        np.save(file, found)
    about = {"row": row, "seed": 0, "mean": float(np.mean(found)), "inputs": inputs_of(model=model)}
    about["lineage"] = lineage("norms", stage, revision, read_json(model / "run.json")["lineage"])
    about["sha256"] = checksums(out / "norms.npy")
    write_json(out / "norms.json", about | {"provenance": provenance("a processor")})
"""
RULE = """

rule norms:
    input:
        inputs_of("norms"),
    output:
        "<results>/norms/{row}/seed{seed}/norms.json",
        "<results>/norms/{row}/seed{seed}/norms.npy",
    log:
        "<logs>/norms/{row}/seed{seed}.log",
    priority: priority_of("norms")
    threads: study.scale.resources.threads
    resources:
        **resources_of("norms"),
    params:
        options=options_of("norms"),
    shell:
        "ldae norms {params.options} --threads {threads} > {log} 2>&1"
"""
# Makes up all other results, computes the norms of one row by the command that the graph gives it, and shows them.
SHOW = f"""
import subprocess, sys
from pathlib import Path
import numpy as np
sys.path.append({str(HELPERS)!r})
from made_up import MadeUp
from ldae.readers.report import write_page
from ldae.runtime.files import read_json
from ldae.study.definitions import PageDefinition
from ldae.study.graph import Graph, options
from ldae.study.study import Study

study = Study.load(Path(), {{}})
graph, made = Graph(study), MadeUp(study, Path("results/smoke"))
made.save("pretrain/pca/seed0/model.safetensors", first=np.full(4, 2.0), second=np.full(9, 2.0))
job = graph.jobs["norms/pca/seed0"]
words = [sys.executable, "-m", "ldae.cli", job.entry.command, *options(graph, job)]
subprocess.run(words, check=True)
assert read_json(job.record)["mean"] == 5.0
cost = made.cost([*made.records, job.record], made.views().with_name("with_norms"))
page = graph.jobs["report_main"]
write_page(PageDefinition.model_validate(page.spec), results=graph.results, cost=cost, out=page.files[0])
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A copy of the project with a stage that measures the norms of weights."""
    copy = Graph.fresh(tmp_path_factory.mktemp("new_stage"))
    copy.edit("ldae/study/stages.py", ")\nSTAGES = {", ENTRY)
    copy.edit("config.yaml", "denoise: 2}", "denoise: 2, norms: 1}")
    for file, text in (
        ("ldae/study/stage_specs.py", SPEC),
        ("ldae/stages/norms.py", FUNCTION),
        ("rules/evaluate.smk", RULE),
    ):
        with (copy.folder / file).open("a") as opened:
            opened.write(text)
    return copy


def python(project: Graph, *words: str) -> str:
    """What a program says that imports the copy's package."""
    environment = os.environ | {"PYTHONPATH": str(project.folder)}
    ended = subprocess.run(
        [sys.executable, *words], cwd=project.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def ldae(project: Graph, *words: str) -> str:
    """What a command of the copy says."""
    return python(project, "-m", "ldae.cli", *words)


def test_it_is_planned_and_told_about(project: Graph) -> None:
    line = next(line.split() for line in ldae(project, "plan", "main").splitlines() if line.startswith("norms"))
    assert line[:4] == ["norms", "3", "3", "9.6e+07"]
    assert "norms/pca/seed0" in ldae(project, "show", "pca")
    log = project.folder / "results/smoke/logs/norms/pca/seed0.log"
    log.parent.mkdir(parents=True)
    log.write_text("ldae: there is no space left\n")
    assert "norms pca, seed 0" in ldae(project, "status", "main")
    log.unlink()


def test_snakemake_runs_it_for_the_page_and_for_a_row(project: Graph) -> None:
    said = project.run("--dry-run", "main")
    assert ["norms", "3"] in [line.split() for line in said.splitlines()]
    record = "results/smoke/norms/predict_clean/seed0/norms.json"
    assert ["norms", "1"] in [line.split() for line in project.run("--dry-run", record).splitlines()]


def test_its_command_computes_and_the_page_shows_where_its_numbers_come_from(project: Graph) -> None:
    python(project, "-c", SHOW)
    page = (project.folder / "results/smoke/report_main.html").read_text()
    assert "norms/pca/seed0/norms.json" in page  # among the origins of the row
    assert "| norms" in (project.folder / "results/smoke/tables/with_norms.md").read_text()
    assert "norms" not in ldae(project, "why", "pca")
    project.edit("config.yaml", "norms: 1}", "norms: 2}")
    assert "norms: revision 1 -> 2\n    1 job: norms pca, seed 0" in ldae(project, "why", "pca")
