"""What the study says of its cost before it runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from forked import Forked, forked
from graph import Graph as Project
from graph import snakemake

from ldae.data.sources import Source, tars
from ldae.data.sources.opening import IMAGENET_BYTES
from ldae.overview.plan import plan, size_of
from ldae.overview.state import State
from ldae.parts.network import Transformer
from ldae.runtime.files import write_json
from ldae.study.base import Size
from ldae.study.cost import Costs, DataSize, transformer_parameters
from ldae.study.graph import Graph, Job
from ldae.study.stages import Cost
from ldae.study.study import Study

ROOT = Path(__file__).parents[2]
SMOKE = Study.load(ROOT, {"scale": "smoke"})
TABLE3 = SMOKE.rows(SMOKE.file.tables["table3"].names)


def jobs(study: Study, targets: list[str], root: Path = Path("nowhere")) -> dict[str, Job]:
    graph = Graph(study, root)
    wanted = set(graph.all_jobs_for(targets))
    return {job.title: job for job in graph.jobs.values() if job in wanted and not job.is_view}


def costs(study: Study, targets: list[str]) -> dict[str, Cost]:
    model = Costs(study, size_of(State(Graph(study)), None)[0])
    return {title: model.of(job) for title, job in jobs(study, targets).items()}


def finish(job: Job, seconds: float = 10.0, **changed: Any) -> None:
    counts = {"counts": {"train": {"a": 400}, "val": {"a": 200}}, "classes": ["a"]} if job.stage == "dataset" else {}
    write_json(job.record, counts | {"lineage": job.lineage | changed, "provenance": {"seconds": seconds}})
    for path in job.files:
        path.touch()


def line_of(stage: str, text: str) -> list[str]:
    """The columns of a stage in a plan."""
    return next(line.split() for line in text.splitlines() if line.startswith(stage))


def test_the_papers_pretraining_costs_what_its_formula_says() -> None:
    """484 GFLOP an image with 256 tokens, forward and back, 1.28 M images, 400 epochs."""
    study = Study.load(ROOT, {"scale": "imagenet"})
    found = costs(study, ["pca"])
    assert found["pretrain pca, seed 0"].flops == pytest.approx(484e9 * 1_281_167 * 400, rel=0.02)
    assert found["dataset images"].disk == pytest.approx(1_331_167 * 3 * 384**2)


def test_fine_tuning_costs_three_forward_passes_an_image() -> None:
    """ViT-B on 256 tokens, 23 GMAC, of 1.28 M images for 100 epochs; for the rows of the comparison alone."""
    study = Study.load(ROOT, {"scale": "imagenet"})
    found = costs(study, ["table4"])
    tuned = {name for name in found if name.startswith("finetune")}
    rows = study.rows(study.file.tables["table4"].names)
    assert tuned == {f"finetune {row}, seed 0" for row in rows if study.variants[row].finetune}
    assert found["finetune ldae_b, seed 0"].flops == pytest.approx(6 * 23.0e9 * 1_281_167 * 100, rel=0.02)
    assert not [name for name in jobs(SMOKE, ["table3", "budget"]) if name.startswith("finetune")]


def test_a_target_s_jobs_are_those_that_snakemake_would_run() -> None:
    command = ["-n", "--cores", "1", "--quiet", "rules", "--forceall", "table1", "--config", "scale=smoke"]
    said = Forked(*command, main=snakemake(), folder=ROOT).ended()
    assert said.returncode == 0, said.stderr
    planned: dict[str, int] = {}
    names = {
        "convolutional_tokenizer": "tokenizer",
        "probe_pixels": "probe",
        "probe_untrained": "probe",
        "reference": "judge",
    }
    for line in said.stdout.partition("total")[0].splitlines():  # the list of jobs stands there twice
        rule, _, count = line.partition(" ")
        if count.strip().isdigit():
            planned[names.get(rule, rule)] = planned.get(names.get(rule, rule), 0) + int(count)
    found: dict[str, int] = {}
    for job in jobs(SMOKE, ["table1"]).values():
        found[job.stage] = found.get(job.stage, 0) + 1
    assert found["pretrain"] == 5
    assert found == {stage: planned[stage] for stage in found}


def test_seeds_multiply_the_jobs_that_have_one() -> None:
    one, three = (jobs(Study.load(ROOT, {"scale": "smoke", "seeds": seeds}), ["table3"]) for seeds in ([0], [0, 1, 2]))
    with_seed = [title for title in one if title.endswith(", seed 0")]
    assert {title.split()[0] for title in with_seed} == {"tokenizer", "pretrain", "probe"}
    assert len(three) - len(one) == 2 * len(with_seed)


def test_the_formula_counts_the_networks_weights() -> None:
    size = Size(width=32, heads=2, encoder_blocks=2, decoder_blocks=1, conditioning=0.25)
    network = Transformer(in_dim=6, out_dim=5, grid=3, size=size)
    found = sum(parameter.numel() for parameter in network.parameters())
    assert found == transformer_parameters(width=32, blocks=3, in_dim=6, out_dim=5, conditioning=8)


def test_a_plan_takes_the_rates_of_all_jobs_of_the_scale_that_have_run(tmp_path: Path) -> None:
    """Of other rows and of other seeds, too."""
    found = jobs(SMOKE, ["table3"], tmp_path)
    before = plan(SMOKE, tmp_path, ["table3"], slots=1)
    assert "are assumed" in before
    other = jobs(Study.load(ROOT, {"scale": "smoke", "seeds": [7]}), ["ldae"], tmp_path)["pretrain ldae, seed 7"]
    for job in (found["pretrain pca, seed 0"], found["pretrain predict_clean, seed 0"], other):
        finish(job, 4.0 + costs(SMOKE, ["table3"])[f"{job.title.partition(',')[0]}, seed 0"].flops / 2e9)
    after = plan(SMOKE, tmp_path, ["table3"], slots=1)
    line = line_of("pretrain", after)
    assert line[1:3] == [str(len(TABLE3)), str(len(TABLE3) - 2)]
    assert line[-1] == "2.0e+09"
    assert "measured on 3 finished jobs" in after and "within 0% of their time" in after
    line = line_of("pretrain", plan(SMOKE, tmp_path, ["classical_dae"], slots=1))  # of which none has run
    assert line[1:3] == ["1", "1"] and line[-1] == "2.0e+09"


def test_a_plan_of_what_has_run_says_that_nothing_is_left(tmp_path: Path) -> None:
    for job in jobs(SMOKE, ["table3"], tmp_path).values():
        finish(job)
    assert plan(SMOKE, tmp_path, ["pca"]) == "Nothing left to do for pca at scale smoke: all 5 jobs have run."
    said = plan(SMOKE, tmp_path, ["table3"])
    assert said.startswith("Nothing left to do for table3 at scale smoke") and "; table3 would be written again" in said


def test_what_a_plan_calls_left_is_what_would_run(tmp_path: Path) -> None:
    for job in jobs(SMOKE, ["pca"], tmp_path).values():
        finish(job)
    (tmp_path / "results/smoke/probe/pca/seed0/correct.npz").unlink()
    assert line_of("probe", plan(SMOKE, tmp_path, ["pca"]))[1:3] == ["2", "1"]
    assert line_of("pretrain", plan(SMOKE, tmp_path, ["pca"]))[1:3] == ["1", "0"]


@pytest.mark.parametrize(("scale", "rate"), [("gpu", 1.6e14), ("imagenet", 4e14)])
def test_no_rate_of_one_scale_is_assumed_for_another_in_silence(scale: str, rate: float) -> None:
    text = plan(Study.load(ROOT, {"scale": scale}), Path("nowhere"), ["table3"])
    assert line_of("pretrain", text)[-1] == f"({rate:.1e})"
    assert f"the {scale} scale" in text.splitlines()[-1]


def test_jobs_that_use_one_gpu_are_not_charged_for_eight(tmp_path: Path) -> None:
    def hours(gpus: int) -> dict[str, float]:
        (tmp_path / "scales").mkdir(exist_ok=True)
        shutil.copytree(ROOT / "scales", tmp_path / "scales", dirs_exist_ok=True)
        shutil.copy(ROOT / "config.yaml", tmp_path)
        resources = f"resources: {{threads: 16, gpu: {gpus}, mem_mb: 120000, minutes: 1440}}\n"
        (tmp_path / "scales/mine.yaml").write_text(f"from: imagenet\n{resources}")
        text = plan(Study.load(tmp_path, {"scale": "mine"}), tmp_path, ["main"])
        table = [line.split() for line in text.partition("-----\n")[2].partition("\n\n")[0].splitlines()]
        return {words[0]: float(words[4]) for words in table}

    one, eight = hours(1), hours(8)
    assert eight["pretrain"] == pytest.approx(one["pretrain"], rel=0.01)
    assert eight["classifier"] == pytest.approx(one["classifier"], rel=0.01)


def test_a_result_of_another_specification_counts_as_to_do(tmp_path: Path) -> None:
    finish(jobs(SMOKE, ["pca"], tmp_path)["pretrain pca, seed 0"], dataset={"revision": 7, "spec": {}})
    assert line_of("pretrain", plan(SMOKE, tmp_path, ["pca"]))[1:3] == ["1", "1"]


def of_pictures(root: Path, dataset: str) -> Study:
    """A study on a person's own pictures."""
    if not (root / "scales").exists():
        shutil.copytree(ROOT / "scales", root / "scales")
        shutil.copy(ROOT / "config.yaml", root)
    (root / "scales/mine.yaml").write_text(f"from: smoke\ndataset: {dataset}\n")
    return Study.load(root, {"scale": "mine"})


def pictures(folder: Path, num: int) -> None:
    folder.mkdir(parents=True)
    for number in range(num):
        (folder / f"{number}.jpg").touch()


def test_the_images_of_a_folder_are_counted(tmp_path: Path) -> None:
    for name, num in (("cat", 30), ("dog", 20)):
        pictures(tmp_path / "pictures" / name, num)
    study = of_pictures(tmp_path, f"{{source: folder, path: {tmp_path}/pictures, size: 64, val_fraction: 0.2}}")
    assert size_of(State(Graph(study)), None)[0] == DataSize(40, 10, 2)
    text = plan(study, tmp_path, ["pca"])
    assert "assumed, as in ImageNet" not in text
    assert line_of("dataset", text)[-2:] == ["614", "kB"]


def test_the_images_in_tar_files_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = of_pictures(tmp_path, f"{{source: imagenet, path: {tmp_path}, size: 64}}")
    parts = np.repeat([0, 1], [7, 3])
    images: Any = SimpleNamespace(labels=parts)
    for name in (tars.TRAIN, tars.VAL, tars.DEVKIT):
        (tmp_path / name).touch()
    monkeypatch.setattr(tars, "load", lambda dataset: Source(("a", "b"), images, parts))
    assert size_of(State(Graph(study)), None)[0] == DataSize(7, 3, 2)
    for name, size in IMAGENET_BYTES.items():
        os.truncate(tmp_path / name, size)  # which takes no room on the disk
    assert size_of(State(Graph(study)), None)[0] == DataSize(1_281_167, 50_000, 1000)


def test_what_ran_counts_where_the_pictures_have_moved_since(tmp_path: Path) -> None:
    dataset = "{{source: folder, path: {}, size: 64, val_fraction: 0.2}}"
    before, after = (of_pictures(tmp_path, dataset.format(tmp_path / name)) for name in ("old", "new"))
    for job in jobs(before, ["pca"], tmp_path).values():
        finish(job, 4.0 + 10.0)
    assert size_of(State(Graph(after, tmp_path)), None)[0] == DataSize(400, 200, 1)
    assert "measured on 4 finished jobs" in plan(after, tmp_path, ["table3"])  # preparing the images computes nothing


def test_a_copy_of_a_result_beside_it_is_no_seed(tmp_path: Path) -> None:
    (tmp_path / "results/smoke/pretrain/pca/seed0.bak").mkdir(parents=True)
    assert line_of("pretrain", plan(SMOKE, tmp_path, ["pca"]))[1:3] == ["1", "1"]
    assert Graph(SMOKE, tmp_path).producer([tmp_path / "results/smoke/pretrain/pca/seed0.bak/run.json"]) is None


MISTAKES = {
    "absent": ("{source: folder, path: PICTURES/none, size: 64, val_fraction: 0.2}", "none: is not a folder"),
    "unsplit": ("{source: folder, path: PICTURES, size: 64}", "does not have both train/ and val/"),
    "tars": ("{source: imagenet, path: PICTURES, size: 64}", "ILSVRC2012_img_train.tar: is absent"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_plan_begins_with_what_is_wrong_with_the_images(mistake: str, tmp_path: Path) -> None:
    dataset, words = MISTAKES[mistake]
    for name in ("cat", "dog"):
        pictures(tmp_path / "pictures" / name, 3)
    study = of_pictures(tmp_path, dataset.replace("PICTURES", str(tmp_path / "pictures")))
    first, second = plan(study, tmp_path, ["pca"]).splitlines()[:2]
    assert words in first
    assert "1,281,167 images for training are assumed, as in ImageNet" in second
    assert words in plan(study, tmp_path, ["pca"], images=500).splitlines()[0]
    assert "assumed, as in" not in plan(study, tmp_path, ["pca"], images=500)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_dry_run_says_what_is_wrong_with_the_images(mistake: str, tmp_path: Path) -> None:
    dataset, words = MISTAKES[mistake]
    project = Project.fresh(tmp_path / "project")
    for name in ("cat", "dog"):
        pictures(tmp_path / "pictures" / name, 3)
    of_pictures(project.folder, dataset.replace("PICTURES", str(tmp_path / "pictures")))
    said = project.dry_run("table3", "--config", "scale=mine")
    assert [words in line for line in said.splitlines()].count(True) == 1


@pytest.mark.parametrize("question", ["plan", "status", "why"])
def test_the_questions_are_commands(question: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scales", tmp_path / "scales")
    shutil.copy(ROOT / "config.yaml", tmp_path)
    said = forked(question, "table3", "--scale", "smoke", folder=tmp_path)
    assert said.returncode == 0 and said.stdout.strip() and not said.stderr
    wrong = forked(question, "daee", folder=tmp_path)
    assert wrong.returncode != 0
    assert "'daee' is not a target" in wrong.stderr and len(wrong.stderr.splitlines()) == 1
