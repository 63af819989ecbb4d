"""The graph through `snakemake --profile slurm` on a real Slurm, and what can go wrong on the way."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster
import yaml
from comparison import equal
from forked import Forked
from graph import RESULTS, ROOT, Graph, snakemake
from slurm_cluster import Cluster

from ldae.study.scale import Resources
from ldae.study.stages import STAGES, Stage

REASON = slurm_cluster.why_not()
on_slurm = pytest.mark.skipif(REASON is not None, reason=f"no Slurm: {REASON}")
ROWS = 3
SMOKE = ("all_tables", "--config", "scale=smoke")
TABLE = ("table3", "--config", "scale=smoke")


def test_the_profile_studies_imagenet_unless_told_otherwise(tmp_path: Path) -> None:
    """Also with a --config that says something else, which would replace a profile's own `config:` whole."""
    graph = Graph.fresh(tmp_path)
    for more, scale in (
        ([], "imagenet"),
        (["--config", "seeds=[0,1]"], "imagenet"),
        (["--config", "scale=gpu"], "gpu"),
    ):
        said = graph.dry_run("--profile", "slurm", "table3", *more)
        assert f"results/{scale}/tables/table3.md" in said


def test_the_profile_asks_for_what_the_scale_says() -> None:
    profile = yaml.safe_load((ROOT / "slurm/config.v9+.yaml").read_text())
    assert "config" not in profile
    assert not {"cores", "set-resources", "set-threads"} & profile.keys()
    assert profile["configfile"] == "slurm/study.yaml"


def test_the_page_on_clusters_explains_what_a_job_may_ask_for() -> None:
    page = (ROOT / "docs/cluster.md").read_text()
    assert [name for name in Resources.model_fields if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_jobs_that_several_processes_share_ask_for_all_gpus_and_others_for_one(stage: Stage) -> None:
    asked, shared = Resources(gpu=4, nodes=2, threads=4).of(stage), "processes" in stage.options
    assert asked.get("gpu") == (8 if shared else 1 if stage.on_gpu else None)
    assert ("mpi" in asked) == shared


def test_gpus_that_share_a_job_are_asked_for_on_one_node(tmp_path: Path) -> None:
    """`--gpus=8` alone lets Slurm take them from several nodes, of which the ranks would see one."""
    graph = Graph.fresh(tmp_path)
    graph.edit("scales/smoke.yaml", "minutes: 5", "minutes: 5, gpu: 2")
    for rules in (graph.folder / "rules").glob("*.smk"):  # Snakemake prints the resources of rules without a message
        rules.write_text(re.sub(r" *message:\n.*\n", "", rules.read_text()))
    said = graph.dry_run("--profile", "slurm", "--config", "scale=smoke")
    shared = [line.split(", ") for line in said.splitlines() if " gpu=2" in line]
    assert len(shared) == 2 * ROWS + 1  # trainings and probes, and a probe of the untrained network
    assert all("nodes=1" in resources for resources in shared)


def test_a_job_on_several_nodes_is_the_same_command(tmp_path: Path) -> None:
    """Editing what a job asks of the machine reruns nothing: the text of its command must not change."""
    graph = Graph.fresh(tmp_path, "every_rule.yaml")
    commands = []
    for resources in ("gpu: 2", "gpu: 1, nodes: 2"):
        graph.edit("scales/smoke.yaml", "minutes: 5", f"minutes: 5, {resources}")
        said = graph.dry_run("--printshellcmds", "all")
        commands.append(sorted(line for line in said.splitlines() if line.startswith("Shell command")))
        graph.edit("scales/smoke.yaml", f"minutes: 5, {resources}", "minutes: 5")
    assert commands[0] == commands[1]
    for stage in STAGES.values():
        told = ["--processes 2 " in line for line in commands[0] if f"ldae {stage.command} " in line]
        assert told and set(told) == {"processes" in stage.options}, stage.name


def test_a_command_is_ascii_whatever_the_study_s_words_are(tmp_path: Path) -> None:
    """In a locale without Unicode, as on some compute nodes, other words would not reach the job."""
    graph = Graph.fresh(tmp_path)
    graph.edit("config.yaml", 'title: "', 'title: "Müll, γ² and ')
    said = graph.dry_run("--printshellcmds")
    commands = [line for line in said.splitlines() if "M\\u00fcll" in line]
    assert len(commands) >= 2, said
    assert all(line.isascii() for line in said.splitlines() if "ldae table" in line or "ldae figure" in line)


@pytest.mark.parametrize(
    ("programs", "words"),
    [
        ({}, "There is no Slurm here (no sbatch)"),
        (
            {"sbatch": "exit 1", "squeue": "exit 1", "sinfo": "echo sinfo: fatal: nobody answers >&2; exit 1"},
            "Slurm does not answer here (sinfo: fatal: nobody answers)",
        ),
    ],
)
def test_without_slurm_the_profile_ends_before_it_submits_anything(
    programs: dict[str, str], words: str, tmp_path: Path
) -> None:
    graph, bin = Graph.fresh(tmp_path), tmp_path / "bin"
    bin.mkdir()
    for name in ("bash", "sh", "env", "which", "uname"):
        (bin / name).symlink_to(str(shutil.which(name)))
    for name, does in programs.items():
        (bin / name).write_text(f"#!/bin/sh\n{does}\n")
        (bin / name).chmod(0o755)
    path = f"{Path(sys.executable).parent}{os.pathsep}{bin}"
    command = ["--profile", "slurm", *TABLE]
    said = Forked(*command, main=snakemake(), folder=graph.folder, environment=os.environ | {"PATH": path}).ended()
    output = said.stdout + said.stderr
    assert said.returncode == 1
    assert [line for line in output.splitlines() if words in line], output
    assert "Traceback" not in output and "rule dataset" not in output and "sacct" not in output


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The same study, run on this machine alone."""
    graph = Graph.fresh(tmp_path_factory.mktemp("local"))
    graph.run("all_tables")
    return graph


@on_slurm
@pytest.mark.graph
def test_slurm_gives_the_tables_that_a_local_run_gives(cluster: Cluster, finished: Graph, tmp_path: Path) -> None:
    graph = Graph.fresh(tmp_path)
    cluster.finish(graph, cluster.start(graph, *SMOKE))
    assert graph.tables() == finished.tables()


STEPS = 400


def slow(graph: Graph, *, seconds: float = 20.0, minutes: int = 60) -> Graph:
    """The graph with a single row, whose training takes so many seconds at least, however fast the machine is."""
    graph.edit("config.yaml", "rows: [pca, predict_clean, single_level]", "rows: [pca]")
    graph.edit("scales/smoke.yaml", "steps: 40,", f"steps: {STEPS},")
    graph.edit("scales/smoke.yaml", "minutes: 5,", f"minutes: {minutes},")
    graph.edit("scales/smoke.yaml", "log_every: 5}\nbaselines", "log_every: 50}\nbaselines")
    update = "run.update(inputs, labels)"
    graph.edit("ldae/training/loop.py", update, f"(time.sleep({seconds / STEPS}), {update})[1]")
    return graph


@on_slurm
@pytest.mark.graph
def test_a_shell_in_a_step_of_several_tasks_is_no_group_of_ranks(cluster: Cluster, tmp_path: Path) -> None:
    """As in `srun -n 4 --pty bash`, where Slurm numbers the shell 0 of 4."""
    graph = Graph.fresh(tmp_path)
    script = f'[ "$SLURM_PROCID" != 0 ] || snakemake --cores 2 {RESULTS}/tokenizers/pca/seed0/tokenizer.json'
    said = cluster.run_in(graph, "srun", "--ntasks=4", "--overcommit", "bash", "-c", script)
    assert "Finished jobid" in said or "100%" in said
    assert (graph.folder / RESULTS / "tokenizers/pca/seed0/tokenizer.json").exists()


@on_slurm
@pytest.mark.graph
def test_a_job_in_which_a_person_runs_snakemake_may_outlast_the_scale_s_limit(cluster: Cluster, tmp_path: Path) -> None:
    """`resources.minutes` is a job's of the profile; the person's job is neither stopped nor queued again."""
    graph = slow(Graph.fresh(tmp_path), seconds=70.0, minutes=1)
    script = graph.folder / "job.sh"
    script.write_text(f"#!/bin/bash\nexec snakemake --cores 2 {RESULTS}/pretrain/pca/seed0/model.safetensors\n")
    job = cluster.run_in(graph, "sbatch", "--parsable", "--cpus-per-task=2", "--output=said.txt", str(script)).strip()
    cluster.wait_for(lambda: cluster.ask(job, "%T") not in ("PENDING", "RUNNING", "COMPLETING"), "the job's end")
    assert cluster.ask(job, "%T") == "COMPLETED", graph.said.read_text()
    assert "Restarts=0" in cluster.run("scontrol", "show", "job", job)
    assert "time limit" not in (graph.folder / RESULTS / "logs/pretrain/pca/seed0.log").read_text()


@pytest.fixture(scope="module")
def slowly_finished(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    graph = slow(Graph.fresh(tmp_path_factory.mktemp("slow")))
    graph.run("table3")
    return graph


@pytest.fixture
def graph(slowly_finished: Graph, tmp_path: Path) -> Graph:
    """The same with all that comes before the trainings."""
    graph = slow(Graph.fresh(tmp_path))
    for name in (RESULTS / "dataset", RESULTS / "tokenizers", RESULTS / "pixels", Path(".snakemake/metadata")):
        shutil.copytree(slowly_finished.folder / name, graph.folder / name)
    return graph


def submitted(graph: Graph, row: str) -> int:
    """How many jobs have been submitted for a row's training."""
    return graph.said.read_text().count(f"/rule_pretrain/{row}_0/")


def resumed(graph: Graph) -> set[str]:
    """The rows whose training has gone on from a checkpoint."""
    logs = (graph.folder / RESULTS / "logs/pretrain").glob("*/*.log")
    return {path.parent.name for path in logs if "resuming at step" in path.read_text()}


@on_slurm
@pytest.mark.faults
class TestFaults:
    """Each ends in the tables of an undisturbed local run, without a person's help."""

    def test_a_training_that_outlasts_its_time_limit_goes_on_in_the_next(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        local = slow(Graph.fresh(tmp_path / "local"), seconds=0.0)
        graph = slow(Graph.fresh(tmp_path / "slurm"), seconds=90.0, minutes=1)
        weights = RESULTS / "pretrain/pca/seed0/model.safetensors"
        local.run(str(weights))
        cluster.finish(graph, cluster.start(graph, str(weights), *SMOKE[1:]))
        assert (graph.folder / weights).read_bytes() == (local.folder / weights).read_bytes()
        assert resumed(graph) == {"pca"}
        assert submitted(graph, "pca") == 1

    def test_a_preempted_training_goes_on_later(self, cluster: Cluster, slowly_finished: Graph, graph: Graph) -> None:
        """Told of it, it saves and asks to be queued again, so that the preemption counts as no failure."""
        process = cluster.start(graph, *TABLE)
        job = cluster.wait_for_training(graph)
        urgent = ("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 5")
        cluster.run(*urgent)
        cluster.wait_for(lambda: job not in cluster.training(), "the preemption")
        cluster.finish(graph, process)
        assert graph.tables() == slowly_finished.tables()
        assert resumed(graph) == {"pca"}
        assert submitted(graph, "pca") == 1

    def test_a_cancelled_training_is_tried_again(self, cluster: Cluster, slowly_finished: Graph, graph: Graph) -> None:
        process = cluster.start(graph, *TABLE)
        cluster.run("scancel", cluster.wait_for_training(graph))
        cluster.finish(graph, process)
        assert graph.tables() == slowly_finished.tables()
        assert resumed(graph) == {"pca"}

    def test_a_training_whose_node_goes_down_goes_on_elsewhere(
        self, cluster: Cluster, slowly_finished: Graph, graph: Graph
    ) -> None:
        process = cluster.start(graph, *TABLE)
        job = cluster.wait_for_training(graph)
        node = cluster.ask(job, "%N")
        cluster.lose(node)
        cluster.wait_for(lambda: "down" in cluster.run("sinfo", "--noheader", f"--nodes={node}"), "the node's loss")
        cluster.wait_for(lambda: cluster.ask(job, "%N") not in ("", node), "another start of the training")
        cluster.run("slurmd", "-N", node)
        cluster.finish(graph, process)
        assert graph.tables() == slowly_finished.tables()

    def test_a_restarted_controller_is_waited_for(self, cluster: Cluster, slowly_finished: Graph, graph: Graph) -> None:
        process = cluster.start(graph, *TABLE)
        cluster.wait_for_training(graph)
        os.kill(cluster.daemon("slurmctld"), signal.SIGTERM)
        time.sleep(20)
        cluster.run("slurmctld")
        cluster.finish(graph, process)
        assert graph.tables() == slowly_finished.tables()

    def test_a_driver_that_is_killed_and_started_again_trains_nothing_twice(
        self, cluster: Cluster, slowly_finished: Graph, graph: Graph
    ) -> None:
        process = cluster.start(graph, *TABLE)
        cluster.wait_for_training(graph)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        cluster.finish(graph, cluster.start(graph, *TABLE))
        assert graph.tables() == slowly_finished.tables()


def on_two_nodes(graph: Graph) -> Graph:
    """The graph whose shared jobs have a rank on each node."""
    graph.edit("scales/smoke.yaml", "minutes: 5,", "minutes: 30, gpu: 1, nodes: 2,")
    return graph


@on_slurm
@pytest.mark.faults
class TestNodes:
    """Jobs of several nodes."""

    def test_a_training_by_two_nodes_is_the_training_by_one(
        self, cluster: Cluster, finished: Graph, tmp_path: Path
    ) -> None:
        graph = on_two_nodes(Graph.fresh(tmp_path))
        process = cluster.start(graph, *SMOKE)
        nodes = set()

        def trains() -> bool:
            nodes.update(cluster.ask(job, "%D") for job in cluster.training())
            return process.poll() is not None

        cluster.wait_for(trains, "the tables", seconds=3600)
        cluster.finish(graph, process)
        assert nodes == {"2"}
        for row in ("pca", "predict_clean", "single_level"):
            one, two = (where.folder / RESULTS / "pretrain" / row / "seed0" for where in (finished, graph))
            equal(one, two, names=("model", "ema"))

    def test_what_a_job_is_told_reaches_the_ranks_of_all_its_nodes(self, cluster: Cluster, tmp_path: Path) -> None:
        """They save and stop together, and the next attempt goes on."""
        graph = on_two_nodes(Graph.fresh(tmp_path))
        graph.edit("scales/smoke.yaml", "steps: 40,", "steps: 400,")
        target = str(RESULTS / "pretrain/pca/seed0/model.safetensors")
        process = cluster.start(graph, target, *SMOKE[1:])
        cluster.run("scancel", "--signal=USR1", cluster.wait_for_training(graph))
        log = graph.folder / RESULTS / "logs/pretrain/pca/seed0.log"
        cluster.wait_for(lambda: "saved and stopped" in log.read_text() or resumed(graph), "the training's stop")
        cluster.finish(graph, process)
        assert resumed(graph) == {"pca"}


@on_slurm
@pytest.mark.faults
def test_the_whole_study_on_slurm_gives_the_tables_of_a_local_run(cluster: Cluster, tmp_path: Path) -> None:
    local, graph = (Graph.fresh(tmp_path / name, ROOT / "config.yaml") for name in ("local", "slurm"))
    local.run(*SMOKE, seconds=7200)
    cluster.finish(graph, cluster.start(graph, *SMOKE), seconds=7200)
    tables = [path.relative_to(local.folder) for path in (local.folder / RESULTS / "tables").iterdir()]
    compared = [path for path in tables if not path.name.startswith("cost")]  # which counts seconds
    assert len(compared) > 20
    for path in compared:
        assert (graph.folder / path).read_bytes() == (local.folder / path).read_bytes(), path
