"""`ldae tune`: what is tuned, which factors are tried, which one is chosen, and the file that keeps it."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from graph import Graph as Project
from rows import ROOT

from ldae.readers.tuning import HEADER, finish, has_ended, progress
from ldae.study.checking import StudyError
from ldae.study.graph import Graph, Job
from ldae.study.results import ProbeEstimate, ProbeRecord, TokenizerRecord
from ldae.study.stage_specs import BaselineStage, ConvolutionalStage, PretrainStage
from ldae.study.study import Study
from ldae.study.tuning import EXTENSIONS, FACTORS, Scores, choose, next_factor, subjects

SCALES = ("laptop", "smoke")
HeldOut = Callable[[str, float, int], float | None]  # by row or tokenizer, factor and seed; None: training diverges


@pytest.mark.parametrize(
    ("scores", "factor", "lead", "error"),
    [
        ({0.5: [30, 32], 1: [31, 33], 2: [33, 36]}, 2, 2.5, 0.5),
        ({0.5: [30, 32], 1: [31, 33], 2: [34, 31]}, 1, 0.5, 2.5),  # a lead below one standard error
        ({0.5: [30, 32], 1: [31, 33], 2: [33, 33]}, 2, 1, 1),
        ({0.5: [30, 32], 1: [31, 33], 2: [31, 33]}, 1, 0, 0),  # of equals the scale's own
        ({0.5: [30, 32], 1: [31, 33], 2: None}, 1, 0, 0),
        ({0.5: [30, 32], 1: None, 2: None}, 0.5, None, None),
        ({0.5: None, 1: None, 2: None}, 1, None, None),
        ({0.5: [30], 1: [31], 2: [32]}, 2, 1, None),
    ],
)
def test_the_best_mean_is_chosen_if_it_leads_the_scales_rate_by_a_standard_error(
    scores: Scores, factor: float, lead: float | None, error: float | None
) -> None:
    found = choose(scores)
    assert (found.factor, found.lead, found.error) == (factor, lead, error)


def test_factors_are_added_while_the_best_is_at_an_edge() -> None:
    peaks = {0.0: 0, 3.0: 3, -3.0: -3}
    for peak, best in peaks.items():
        scores: dict[float, list[float]] = {factor: [-abs(math.log2(factor) - peak)] * 2 for factor in FACTORS}
        while (factor := next_factor(scores)) is not None:
            scores[factor] = [-abs(math.log2(factor) - peak)] * 2
        assert math.log2(choose(scores).factor) == best
        assert min(scores) < choose(scores).factor < max(scores)
    ever = {factor: [factor] * 2 for factor in FACTORS}
    while (factor := next_factor(ever)) is not None:
        ever[factor] = [factor] * 2
    assert len(ever) == len(FACTORS) + EXTENSIONS and choose(ever).factor == 4 * 2**EXTENSIONS


@pytest.mark.parametrize("scale", SCALES)
def test_every_training_of_the_study_is_tuned_once(scale: str) -> None:
    study = Study.load(ROOT, {"scale": scale})
    found = subjects(study)
    rows, tokenizers = ([subject.name for subject in found if subject.is_row == kind] for kind in (True, False))
    added = {row for of_variation in study.added.values() for row in of_variation}
    assert rows == [run for run in dict.fromkeys(study.runs.values()) if run not in added]
    assert tokenizers == [name for name, stage in study.tokenizers.items() if stage.is_trained]
    assert [subject.is_row for subject in found] == [False] * len(tokenizers) + [True] * len(rows)


def test_named_rows_sweeps_and_tokenizers_are_tuned_with_what_they_stand_on() -> None:
    study = Study.load(ROOT, {"scale": "smoke"})
    assert [subject.name for subject in subjects(study, ["conv_vae", "level"])][:2] == ["conv-16", "conv_vae"]
    assert [subject.name for subject in subjects(study, ["time_clean"])] == ["ldae"]  # whose training they share
    assert [subject.name for subject in subjects(study, ["conv-32"])] == ["conv-32"]
    with pytest.raises(StudyError, match="'conv-33' is not a row, sweep, variation or trained tokenizer"):
        subjects(study, ["conv-33"])


def test_the_rows_that_a_variation_adds_are_tuned_where_it_is_named(project: Path) -> None:
    study = Study.load(project, {"scale": "smoke"})
    assert [subject.name for subject in subjects(study, ["scaling"])] == study.added["scaling"]
    now = progress(study, project, ["scaling"], since=None)
    tuning = Study.load(project, {"study": str(now.file)})
    for row in study.added["scaling"]:  # also those that change a point of a sweep
        assert tuning.variants[row].spec == study.variants[row].spec
        assert tuning.variants[f"{row}_rate2"].spec == study.variants[row].spec.changed({"recipe.rate": 2})


def test_a_row_with_a_rate_of_its_own_is_not_tuned(project: Path) -> None:
    study = (project / "config.yaml").read_text()
    fast = "\n  pca_fast: {from: pca, label: fast, set: {recipe.rate: 3}}\n\nsweeps:"
    (project / "config.yaml").write_text(study.replace("\nsweeps:", fast, 1))
    loaded = Study.load(project, {"scale": "smoke"})
    assert "pca_fast" not in [subject.name for subject in subjects(loaded)]
    with pytest.raises(StudyError, match=r"'pca_fast' has a recipe\.rate of its own"):
        subjects(loaded, ["pca_fast"])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project's own study and scales."""
    (tmp_path / "scales").mkdir()
    for scale in SCALES:
        shutil.copy(ROOT / f"scales/{scale}.yaml", tmp_path / "scales")
    shutil.copy(ROOT / "config.yaml", tmp_path)
    return tmp_path


def rate(study: Study, row: str) -> float:
    """The rate that a row is trained with."""
    stage = study.pretraining(row)
    assert isinstance(stage, PretrainStage | BaselineStage)
    return stage.training.rate


def answer(project: Path, file: Path, jobs: list[Job], held_out: HeldOut) -> None:
    """Writes the records of jobs, or the log of a training that has diverged."""
    tuning = Study.load(project, {"study": str(file)})
    factors = {
        point.variant: (tuning.file.sweeps[name].parent, float(point.value))
        for name, points in tuning.sweeps.items()
        if name.endswith("_rate")
        for point in points
    }
    fits = {tuning.variants[row].spec.tokenizer.name: factors[row] for row in reversed(factors)}
    for job in jobs:
        job.record.parent.mkdir(parents=True, exist_ok=True)
        for path in job.files:
            path.touch()
        seed = job.key["seed"]
        if job.stage == "tokenizer":
            tokenizer = tuning.variants[fits[job.key["tokenizer"]][0]].spec.tokenizer
            score = held_out(tokenizer.at_scale_rate.name, fits[job.key["tokenizer"]][1], seed)
            assert score is not None
            fit = {"kind": "conv", "dims": tokenizer.dim, "collapsed_dims": 0, "psnr": {tokenizer.dim: score}}
            TokenizerRecord.model_validate({"lineage": job.lineage, "seed": seed, **fit}).write(job.record)
            continue
        row = job.key["row"]
        score = held_out(*factors[row], seed)
        if score is None:
            log = project / tuning.results / f"logs/pretrain/{row}/seed{seed}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("ldae: pca: loss nan between steps 0 and 5: training has diverged; lower the rate\n")
            continue
        estimate = ProbeEstimate(value=0.2, low=0.1, high=0.3, held_out=score / 100)
        blocks = {tuning.variants[row].spec.features.offset: {"linear": estimate}}
        about = {"run": row, "provenance": {"commit": "abc", "device": "a processor"}}
        ProbeRecord.model_validate({"lineage": job.lineage, "row": row, "seed": seed, "blocks": blocks, **about}).write(
            job.record
        )


def tune(project: Path, scale: str, names: list[str], held_out: HeldOut) -> tuple[str, list[int]]:
    """Tunes with made-up results; returns the table, and the number of jobs of each run."""
    since, runs = time.time() - 1, list[int]()
    while (now := progress(Study.load(project, {"scale": scale}), project, names, since=since)).left:
        runs.append(len(now.left))
        answer(project, now.file, now.left, held_out)
    return finish(Study.load(project, {"scale": scale}), project, now), runs


@pytest.mark.parametrize("scale", SCALES)
def test_the_study_that_tries_the_factors_trains_each_row_at_each_of_them(scale: str, project: Path) -> None:
    study = Study.load(project, {"scale": scale})
    tokenizers = progress(study, project, [], since=None)
    num = sum(not subject.is_row for subject in subjects(study))
    assert len(tokenizers.left) == num * len(FACTORS) * 2
    first = Study.load(project, {"study": str(tokenizers.file)})
    for point in first.sweeps["tokenizer_conv_16_rate"]:
        stage = first.tokenizers[first.variants[point.variant].spec.tokenizer.name]
        assert isinstance(stage, ConvolutionalStage)
        assert stage.convolutional.rate == point.value * study.scale.convolutional.rate
    answer(project, tokenizers.file, tokenizers.left, lambda name, factor, seed: -abs(math.log2(factor) - 1))
    rows = progress(study, project, [], since=None)
    tuning = Study.load(project, {"study": str(rows.file)})
    trained = [subject.name for subject in subjects(study) if subject.is_row]
    assert len(rows.left) == len(trained) * len(FACTORS) * 2
    assert tuning.results == Path("results/tuning", scale) and tuning.file.seeds == [100, 101]
    assert not tuning.file.tables and not any(row.finetune or row.fid for row in tuning.variants.values())
    for row in trained:
        for point in tuning.sweeps[f"{row}_rate"]:
            assert rate(tuning, point.variant) == point.value * rate(study, row)
            tokenizer, own = tuning.variants[point.variant].spec.tokenizer, study.variants[row].spec.tokenizer
            assert tokenizer.rate == (2 if own.traits.trained and study.is_denoiser(row) else 1)
            assert tokenizer.at_scale_rate == own


def test_a_tuning_ends_with_a_file_of_rates_that_the_study_reads(project: Path) -> None:
    peaks = {"conv-16": -1, "conv_vae": 3, "pca": 0, "ldae": 1}

    def held_out(name: str, factor: float, seed: int) -> float | None:
        if name == "ldae" and factor == 4 and seed == 101:
            return None
        return 30 - abs(math.log2(factor) - peaks[name]) + 0.1 * (seed - 100)

    table, runs = tune(project, "smoke", ["conv_vae", "pca", "ldae"], held_out)
    assert runs == [10, 30, 2, 2]  # the tokenizer; three rows; the convolutional one has its best at 4, then at 8
    line = next(line for line in table.splitlines() if "conv_vae" in line)
    assert [cell.strip() for cell in line.split("|")[2:-1]] == (
        ["25.05", "26.05", "27.05", "28.05", "29.05", "**30.05**", "29.05", "8", "3.00 ± 0.00", ""]
    )
    assert "diverged" in table
    text = (project / "scales/smoke.rates.yaml").read_text()
    assert text.startswith(HEADER)
    values = yaml.safe_load(text)
    assert {name: entry["factor"] for name, entry in values["rows"].items()} == {"conv_vae": 8, "pca": 1, "ldae": 2}
    assert values["tokenizers"]["conv-16"]["factor"] == 0.5
    ldae = {"factor": 2, "tried": {0.25: 27.05, 0.5: 28.05, 1: 29.05, 2: 30.05, 4: None}, "lead": 1, "error": 0}
    assert values["rows"]["ldae"] == ldae | {"seeds": [100, 101], "commit": "abc", "device": "a processor"}
    assert (project / "results/tuning/smoke/rates.md").read_text().startswith("|")
    study = Study.load(project, {"scale": "smoke"})
    assert study.factors["conv_vae"] == (8, "conv_vae") and study.factors["predict_clean"] == (1, "pca")
    lines = text.splitlines()
    tune(project, "smoke", ["pca"], lambda name, factor, seed: 30 - abs(math.log2(factor) - 1))
    assert (project / "scales/smoke.rates.yaml").read_text().splitlines() == lines  # nothing was left to run


def test_a_training_that_diverged_in_an_earlier_tuning_is_tried_again(project: Path) -> None:
    study = Study.load(project, {"scale": "smoke"})

    def held_out(name: str, factor: float, seed: int) -> float | None:
        return None if factor == 4 else 30 - abs(math.log2(factor))

    now = progress(study, project, ["pca"], since=None)
    answer(project, now.file, now.left, held_out)
    tuning = Study.load(project, {"study": str(now.file)})
    records = [str(job.record) for job in now.left]
    assert has_ended(tuning, project, records, since=time.time() - 60)
    assert not has_ended(tuning, project, records, since=time.time() + 60)
    assert not progress(study, project, ["pca"], since=time.time() - 60).left
    again = progress(study, project, ["pca"], since=time.time() + 60).left
    assert {job.key["row"] for job in again} == {"pca_rate4"}
    assert Graph(tuning, project).jobs["probe/pca_rate4/seed100"].record in {job.record for job in again}


@pytest.mark.graph
def test_two_rows_are_tuned_by_one_command(tmp_path: Path) -> None:
    project = Project.fresh(tmp_path)
    project.edit("scales/smoke.yaml", "training: {steps: 40,", "training: {steps: 10,")
    command = [sys.executable, "-m", "ldae.cli", "tune", "pca", "single_level", "--cores", "2"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    written = yaml.safe_load((tmp_path / "scales/smoke.rates.yaml").read_text())["rows"]
    assert set(written) == {"pca", "single_level"}
    assert all(set(FACTORS) <= set(entry["tried"]) for entry in written.values())
    assert "lead over x 1" in run.stdout and "20 more results are needed" in run.stderr
    before = (tmp_path / "scales/smoke.rates.yaml").read_bytes()
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "more results" not in again.stderr  # it reads the records
    assert (tmp_path / "scales/smoke.rates.yaml").read_bytes() == before
