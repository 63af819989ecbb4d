"""The graph through `snakemake --profile slurm` on a real Slurm, and what can go wrong on the way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster
import yaml
from graph import RESULTS, ROOT, Graph
from slurm_cluster import Cluster

REASON = slurm_cluster.why_not()
on_slurm = pytest.mark.skipif(REASON is not None, reason=f"no Slurm: {REASON}")
ROWS = 3
SMOKE = ("all_tables", "--config", "scale=smoke")


def test_the_profile_studies_imagenet_unless_told_otherwise(tmp_path: Path) -> None:
    """Also with a --config that says something else, which would replace a profile's own `config:` whole."""
    graph = Graph.fresh(tmp_path)
    for more, scale in (
        ([], "imagenet"),
        (["--config", "seeds=[0,1]"], "imagenet"),
        (["--config", "scale=gpu"], "gpu"),
    ):
        process = subprocess.run(
            ["snakemake", "--profile", "slurm", "--dry-run", "dae", *more],
            cwd=graph.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"results/{scale}/tables/dae.md" in process.stdout


def test_the_profile_asks_for_what_the_scale_says() -> None:
    profile = yaml.safe_load((ROOT / "slurm/config.v9+.yaml").read_text())
    assert "config" not in profile
    assert not {"cores", "set-resources", "set-threads"} & profile.keys()
    assert profile["configfile"] == "slurm/study.yaml"


def test_jobs_that_several_processes_share_ask_for_all_gpus_and_others_for_one() -> None:
    rules = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    found = {"shared": 0, "alone": 0}
    for rule in re.split(r"^rule ", rules, flags=re.MULTILINE)[1:]:
        if "--processes {resources.gpu}" in rule:
            found["shared"] += 1
            assert "gpu=PROCESSES" in rule and "**SEVERAL_NODES" in rule, rule
        elif "gpu=" in rule:
            found["alone"] += 1
            assert "gpu=ONE_GPU" in rule and "SEVERAL_NODES" not in rule, rule
    assert found == {"shared": 5, "alone": 5}


def test_a_job_on_several_nodes_is_the_same_command(tmp_path: Path) -> None:
    """Editing what a job asks of the machine reruns nothing: the text of its command must not change."""
    graph = Graph.fresh(tmp_path)
    commands = []
    for resources in ("gpu: 2", "gpu: 1, nodes: 2"):
        graph.edit("scales/smoke.yaml", "minutes: 5", f"minutes: 5, {resources}")
        said = graph.run("--dry-run", "--printshellcmds", "dae")
        commands.append([line for line in said.splitlines() if line.startswith("Shell command")])
        graph.edit("scales/smoke.yaml", f"minutes: 5, {resources}", "minutes: 5")
    assert commands[0] == commands[1]
    assert sum("--processes 2 " in line for line in commands[0]) == 2 * ROWS


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


LONG = 3000  # steps; more than a minute


def slow(graph: Graph, *, minutes: int = 5) -> Graph:
    """The graph with trainings that are long enough for things to happen to them."""
    graph.edit("scales/smoke.yaml", "steps: 40,", f"steps: {LONG},")
    graph.edit("scales/smoke.yaml", "minutes: 5,", f"minutes: {minutes},")
    graph.edit("scales/smoke.yaml", "log_every: 5}\nbaselines", "log_every: 50}\nbaselines")
    return graph


@pytest.fixture(scope="module")
def slowly_finished(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    graph = slow(Graph.fresh(tmp_path_factory.mktemp("slow")))
    graph.run("all_tables")
    return graph


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return slow(Graph.fresh(tmp_path))


@on_slurm
@pytest.mark.faults
class TestFaults:
    """Each ends in the tables of an undisturbed local run, without a person's help."""

    def test_a_training_that_outlasts_its_time_limit_goes_on_in_the_next(
        self, cluster: Cluster, slowly_finished: Graph, tmp_path: Path
    ) -> None:
        graph = slow(Graph.fresh(tmp_path), minutes=1)
        cluster.finish(graph, cluster.start(graph, *SMOKE))
        assert graph.tables() == slowly_finished.tables()
        logs = [path.read_text() for path in (graph.folder / RESULTS / "logs/pretrain").rglob("*.log")]
        assert any("resuming at step" in log for log in logs), "no training met its limit; make them longer"

    def test_a_preempted_training_goes_on_later(self, cluster: Cluster, slowly_finished: Graph, graph: Graph) -> None:
        process = cluster.start(graph, *SMOKE)
        cluster.wait_for_training()
        time.sleep(10)
        urgent = ("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 5")
        cluster.run(*urgent)
        cluster.wait_for(lambda: not cluster.training(), "the preemption")
        cluster.finish(graph, process)
        assert graph.tables() == slowly_finished.tables()

    def test_a_cancelled_training_is_tried_again(self, cluster: Cluster, slowly_finished: Graph, graph: Graph) -> None:
        process = cluster.start(graph, *SMOKE)
        job = cluster.wait_for_training()
        time.sleep(10)
        cluster.run("scancel", job)
        cluster.finish(graph, process)
        assert graph.tables() == slowly_finished.tables()

    def test_a_restarted_controller_is_waited_for(self, cluster: Cluster, slowly_finished: Graph, graph: Graph) -> None:
        process = cluster.start(graph, *SMOKE)
        cluster.wait_for_training()
        os.kill(cluster.daemon("slurmctld"), signal.SIGTERM)
        time.sleep(5)
        cluster.run("slurmctld")
        cluster.finish(graph, process)
        assert graph.tables() == slowly_finished.tables()

    def test_a_driver_that_is_killed_and_started_again_trains_nothing_twice(
        self, cluster: Cluster, slowly_finished: Graph, graph: Graph
    ) -> None:
        process = cluster.start(graph, *SMOKE)
        cluster.wait_for_training()
        time.sleep(15)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        cluster.finish(graph, cluster.start(graph, *SMOKE))
        assert graph.tables() == slowly_finished.tables()
