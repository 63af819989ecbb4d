"""What the study says of itself: its cost before it runs, where it stands, and what would run again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from forked import Forked, forked

from ldae.checking import StudyError
from ldae.cost import transformer_parameters
from ldae.files import write_json
from ldae.network import Transformer
from ldae.plan import Data, Forecast, Job, plan, rows_of, size_of
from ldae.status import status
from ldae.variants import Study

ROOT = Path(__file__).parent.parent
SMOKE = Study.load(ROOT, {"scale": "smoke"})


def jobs(study: Study, targets: list[str], results: Path = Path("nowhere")) -> dict[str, Job]:
    found = Forecast(study, results, size_of(study, results, None)).jobs(rows_of(study, targets))
    return {f"{job.stage} {job.name}": job for job in found}


def finish(job: Job, seconds: float = 10.0, **changed: Any) -> None:
    counts = {"counts": {"train": {"a": 400}, "val": {"a": 200}}, "classes": ["a"]} if job.stage == "dataset" else {}
    write_json(job.record, counts | {"lineage": job.made | changed, "provenance": {"seconds": seconds}})


def test_the_papers_pretraining_costs_what_its_formula_says() -> None:
    """484 GFLOP an image with 256 tokens, forward and back, 1.28 M images, 400 epochs."""
    study = Study.load(ROOT, {"scale": "imagenet"})
    found = jobs(study, ["pca"])
    assert found["pretrain pca, seed 0"].flops == pytest.approx(484e9 * 1_281_167 * 400, rel=0.02)
    assert found["dataset images"].disk == pytest.approx(1_331_167 * 3 * 256**2)


def test_fine_tuning_costs_three_forward_passes_an_image() -> None:
    """ViT-B on 256 tokens, 23 GMAC, of 1.28 M images for 100 epochs; for the rows of the comparison alone."""
    found = jobs(Study.load(ROOT, {"scale": "imagenet"}), ["comparison"])
    tuned = [name for name in found if name.startswith("finetune")]
    assert len(tuned) == 6
    assert found["finetune ldae_b, seed 0"].flops == pytest.approx(6 * 23.0e9 * 1_281_167 * 100, rel=0.02)
    assert not [name for name in jobs(SMOKE, ["dae", "budget"]) if name.startswith("finetune")]


def test_a_target_s_jobs_are_those_that_snakemake_would_run() -> None:
    from snakemake.cli import main

    command = ["-n", "--cores", "1", "--quiet", "rules", "--forceall", "reorienting", "--config", "scale=smoke"]
    said = Forked(*command, main=main, folder=ROOT).ended()
    assert said.returncode == 0, said.stderr
    planned: dict[str, int] = {}
    names = {"convolutional_tokenizer": "tokenizer"}
    for line in said.stdout.partition("total")[0].splitlines():  # the list of jobs stands there twice
        rule, _, count = line.partition(" ")
        if count.strip().isdigit():
            planned[names.get(rule, rule)] = planned.get(names.get(rule, rule), 0) + int(count)
    found: dict[str, int] = {}
    for job in jobs(SMOKE, ["reorienting"]).values():
        found[job.stage] = found.get(job.stage, 0) + 1
    assert found["pretrain"] == 5
    assert found == {stage: planned[stage] for stage in found}


def test_seeds_multiply_the_jobs_that_have_one() -> None:
    one, three = (
        len(jobs(Study.load(ROOT, {"scale": "smoke", "seeds": seeds}), ["dae"])) for seeds in ([0], [0, 1, 2])
    )
    assert three - one == 2 * (6 + 6)


def test_the_formula_counts_the_networks_weights() -> None:
    network = Transformer(
        in_dim=6, out_dim=5, grid=3, width=32, heads=2, encoder_blocks=2, decoder_blocks=1, conditioning=8
    )
    found = sum(parameter.numel() for parameter in network.parameters())
    assert found == transformer_parameters(width=32, blocks=3, in_dim=6, out_dim=5, conditioning=8)


def test_an_unknown_target_is_named_with_the_nearest() -> None:
    with pytest.raises(StudyError, match="'figure55' is no target.*did you mean 'figure5'"):
        rows_of(SMOKE, ["figure55"])


def test_a_plan_takes_the_rates_of_jobs_that_have_run(tmp_path: Path) -> None:
    results = tmp_path / "results/smoke"
    found = jobs(SMOKE, ["dae"], results)
    before = plan(SMOKE, tmp_path, ["dae"], slots=1)
    assert "are assumed" in before
    for name in ("pca", "predict_clean"):
        job = found[f"pretrain {name}, seed 0"]
        finish(job, 4.0 + job.flops / 2e9)
    after = plan(SMOKE, tmp_path, ["dae"], slots=1)
    line = next(line.split() for line in after.splitlines() if line.startswith("pretrain"))
    assert line[1:3] == ["6", "4"]
    assert line[-1] == "2.0e+09"
    assert "within 0% of what they took" in after


def test_jobs_that_use_one_gpu_are_not_charged_for_eight(tmp_path: Path) -> None:
    def hours(gpus: int) -> dict[str, float]:
        (tmp_path / "scales").mkdir(exist_ok=True)
        shutil.copytree(ROOT / "scales", tmp_path / "scales", dirs_exist_ok=True)
        shutil.copy(ROOT / "config.yaml", tmp_path)
        resources = f"resources: {{threads: 16, gpu: {gpus}, mem_mb: 120000, minutes: 1440}}\n"
        (tmp_path / "scales/mine.yaml").write_text(f"from: imagenet\n{resources}")
        text = plan(Study.load(tmp_path, {"scale": "mine"}), tmp_path, ["main"])
        table = [line.split() for line in text.partition("\n\n")[0].splitlines()[2:]]
        return {words[0]: float(words[4]) for words in table}

    one, eight = hours(1), hours(8)
    assert eight["pretrain"] == pytest.approx(one["pretrain"], rel=0.01)
    assert eight["classifier"] == pytest.approx(one["classifier"], rel=0.01)


def test_a_result_of_another_specification_counts_as_to_do(tmp_path: Path) -> None:
    job = jobs(SMOKE, ["pca"], tmp_path / "results/smoke")["pretrain pca, seed 0"]
    finish(job, dataset={"revision": 7, "spec": {}})
    line = next(text.split() for text in plan(SMOKE, tmp_path, ["pca"]).splitlines() if text.startswith("pretrain"))
    assert line[1:3] == ["1", "1"]


def test_images_that_are_not_prepared_are_counted_as_told() -> None:
    study = Study.load(ROOT, {"scale": "imagenet"})
    assert size_of(study, Path("nowhere"), 1000) == Data(1000, 50, 1000, known=True)
    assert "1,281,167 for training are assumed" in plan(study, Path("nowhere"), ["pca"])
    assert "are assumed; --images" not in plan(study, Path("nowhere"), ["pca"], images=1000)


def run_folder(root: Path, row: str, *, log: str | None = None, pid: int | None = None, age: float = 0.0) -> None:
    results = root / "results/smoke"
    if log is not None:
        path = results / f"logs/pretrain/{row}/seed0.log"
        path.parent.mkdir(parents=True)
        path.write_text(log)
    if pid is not None:
        lock = results / f"resume/pretrain/{row}/seed0/lock"
        lock.parent.mkdir(parents=True)
        lock.write_text(json.dumps({"host": os.uname().nodename, "pid": pid}))
        os.utime(lock, (time.time() - age,) * 2)


def test_status_tells_who_runs_who_is_stale_and_who_has_failed(tmp_path: Path) -> None:
    line = "pca: 2,000 of 8,000 images (25 %), 1,200 images/s, 0:00:05 left, loss 0.9\n"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    run_folder(tmp_path, "pca", log=line, pid=os.getpid())
    run_folder(tmp_path, "predict_clean", log=line, pid=gone.pid)
    run_folder(tmp_path, "no_scaling", log=line, pid=os.getpid(), age=1000)
    run_folder(tmp_path, "image_input", log=line + "ldae: no space left on device\n")
    found = jobs(SMOKE, ["dae"], tmp_path / "results/smoke")
    finish(found["pretrain image_output, seed 0"])
    text = status(SMOKE, tmp_path, ["dae"])
    assert "7 trainings at scale smoke: 1 done, 1 running, 2 stale, 1 failed, 2 waiting" in text
    lines = {line.split(",")[0]: " ".join(line.split()) for line in text.splitlines() if line.startswith("pretrain")}
    assert "running 25 % 1,200 images/s 0:00:05 0 s ago on" in lines["pretrain pca"]
    assert "stale" in lines["pretrain predict_clean"]
    assert "stale 25 % 1,200 images/s 0:00:05 1000 s ago on" in lines["pretrain no_scaling"]
    assert lines["pretrain image_input"].endswith("failed 25 % ldae: no space left on device")


def test_status_names_another_job_that_has_failed_but_not_one_that_may_be_running(tmp_path: Path) -> None:
    logs = tmp_path / "results/smoke/logs"
    (logs / "probe/pca").mkdir(parents=True)
    (logs / "probe/pca/seed0.log").write_text("pca: 100 of 200 images\n")
    (logs / "dataset.log").write_text("ldae: /pictures: is no folder\n")
    text = status(SMOKE, tmp_path, ["dae"])
    assert "7 trainings at scale smoke: 7 waiting, and 1 other job failed" in text
    (line,) = [" ".join(line.split()) for line in text.splitlines() if "failed" in line and "trainings" not in line]
    assert line == "dataset images failed ldae: /pictures: is no folder"


@pytest.mark.parametrize("question", ["plan", "status", "why"])
def test_the_questions_are_commands(question: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scales", tmp_path / "scales")
    shutil.copy(ROOT / "config.yaml", tmp_path)
    said = forked(question, "dae", "--scale", "smoke", folder=tmp_path)
    assert said.returncode == 0 and said.stdout.strip() and not said.stderr
    wrong = forked(question, "daee", folder=tmp_path)
    assert wrong.returncode != 0
    assert "'daee' is no target" in wrong.stderr and len(wrong.stderr.splitlines()) == 1
