"""Each row's own rate: the file of factors, which rows a factor concerns, and what it makes run again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rows import ROOT

from ldae.overview.show import scale_settings
from ldae.overview.state import State
from ldae.study.checking import StudyError
from ldae.study.definitions import page_definition
from ldae.study.graph import Graph
from ldae.study.rates import rate_in_words
from ldae.study.scale_file import scale_names
from ldae.study.stage_specs import BaselineStage, ConvolutionalStage, PretrainStage
from ldae.study.study import Study
from ldae.study.tuning import subjects


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project's own study, and the scale `smoke`."""
    (tmp_path / "scales").mkdir()
    shutil.copy(ROOT / "scales/smoke.yaml", tmp_path / "scales")
    shutil.copy(ROOT / "config.yaml", tmp_path)
    return tmp_path


def tuned(project: Path, text: str, **overrides: object) -> Study:
    """The study at the scale `smoke`, with a file of rates."""
    (project / "scales/smoke.rates.yaml").write_text(text)
    return Study.load(project, {"scale": "smoke", **overrides})


def rate(study: Study, row: str) -> float:
    """The rate that a row is trained with."""
    stage = study.pretraining(row)
    assert isinstance(stage, PretrainStage | BaselineStage)
    return stage.training.rate


def test_a_row_is_trained_at_the_scales_rate_times_its_factor_times_its_own_rate(project: Path) -> None:
    study = (project / "config.yaml").read_text()
    fast = "\n  pca_fast: {from: pca, label: fast, set: {recipe.rate: 3}}\n\nsweeps:"
    (project / "config.yaml").write_text(study.replace("\nsweeps:", fast, 1))
    plain = tuned(project, "rows: {}")
    base = plain.scale.training.rate
    assert all(rate(plain, row) == base for row in ("pca", "ldae")) and rate(plain, "pca_fast") == 3 * base
    own = tuned(project, "rows: {pca: 0.5, mae_b: {factor: 4, tried: {2: 30.5, 4: 31.0, 8: null}, seeds: [100, 101]}}")
    assert rate(own, "pca") == 0.5 * base
    assert rate(own, "pca_fast") == 1.5 * base
    assert rate(own, "mae_b") == 4 * own.scale.recipe_for("mae").rate
    (project / "scales/smoke.rates.yaml").unlink()
    assert Study.load(project, {"scale": "smoke"}).factors == plain.factors


def test_a_row_without_an_entry_has_the_factor_of_its_nearest_ancestor_with_one(project: Path) -> None:
    study = tuned(project, "rows: {pca: 0.5, ldae: 2, pca_d8: 4}")
    factors = {row: tuple(factor) for row, factor in study.factors.items()}
    assert factors["patch_ae"] == (1, None)
    assert factors["predict_clean"] == factors["pca_d16"] == (0.5, "pca") and factors["pca_d8"] == (4, "pca_d8")
    assert factors["longer"] == factors["time_clean0"] == factors["ldae"] == (2, "ldae")
    assert factors["ldae_b"] == (2, "ldae") and factors["mae_b"] == (1, None)  # MAE has a rate of its own
    assert rate_in_words(study, "ldae") == "2 x the scale's rate, tuned"
    assert rate_in_words(study, "longer") == "2 x the scale's rate, not tuned: the factor of ldae"
    assert rate_in_words(study, "mae_b") == "the scale's rate, not tuned"
    page = page_definition(Graph(study), "main", "all")
    assert {row.name: row.rate for row in page.rows}["ldae"] == rate_in_words(study, "ldae")
    assert scale_settings(study, "ldae")["training.factor"] == 2
    assert "training.factor" not in scale_settings(study, "mae_b")


def test_published_weights_have_no_rate(project: Path) -> None:
    study = (project / "config.yaml").read_text()
    weights = "{path: mae.pth, sha256: " + "a" * 64 + ", width: 768, heads: 12, blocks: 12}"
    row = f"\n  published: {{from: mae_b, label: mae, set: {{method.weights: {weights}}}}}\n\nsweeps:"
    (project / "config.yaml").write_text(study.replace("\nsweeps:", row, 1))
    loaded = tuned(project, "rows: {mae_b: 2}")
    assert (loaded.factors["mae_b"].value, loaded.factors["published"].value) == (2, 1)
    assert "training.factor" not in scale_settings(loaded, "published")
    with pytest.raises(StudyError, match="rows.published: takes published weights and is not trained"):
        tuned(project, "rows: {published: 2}")
    with pytest.raises(StudyError, match="'published' takes published weights"):
        subjects(loaded, ["published"])


def test_a_factor_of_a_tokenizer_is_by_the_name_of_its_fit(project: Path) -> None:
    study = (project / "config.yaml").read_text()
    fast = "\n  fast_fit: {from: conv_vae, label: fast, set: {tokenizer.rate: 2}}\n\nsweeps:"
    (project / "config.yaml").write_text(study.replace("\nsweeps:", fast, 1))
    loaded = tuned(project, "tokenizers: {conv-16: 0.5}")
    base, fits = loaded.scale.convolutional.rate, loaded.tokenizers
    rates = {name: fit.convolutional.rate for name, fit in fits.items() if isinstance(fit, ConvolutionalStage)}
    assert rates["conv-16"] == 0.5 * base and rates["conv-16-rate2"] == base
    assert rates["conv-32"] == rates["conv-16-perceptual-adversarial"] == base
    assert rate_in_words(loaded, "conv_vae").endswith("its tokenizer: 0.5 x the scale's rate, tuned")
    assert rate_in_words(loaded, "dit").endswith("its tokenizer: the scale's rate, not tuned")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rows: {pcb: 2}", "scales/smoke.rates.yaml: rows.pcb: there is no such row (did you mean 'pca'?)"),
        ("rows: {pca: 0}", "scales/smoke.rates.yaml: rows.pca.factor: found 0, should be greater than 0"),
        ("rows: {pca: fast}", "rows.pca: found 'fast', should be like {factor: ...}"),
        ("rows: {pca: true}", "rows.pca.factor: found true, should be a number"),
        ("row: {pca: 2}", "unknown key 'row' (did you mean 'rows'?)"),
        ("rows: {time_clean0: 2}", "rows.time_clean0: shares the training of 'ldae'; give the factor to that row"),
        (
            "tokenizers: {conv-17: 2}",
            "tokenizers.conv-17: there is no such trained tokenizer (did you mean 'conv-16'?)",
        ),
        ("tokenizers: {pca: 2}", "tokenizers.pca: there is no such trained tokenizer"),
        ("tokenizers: {conv-16: -1}", "tokenizers.conv-16.factor: found -1, should be greater than 0"),
        ("", "scales/smoke.rates.yaml: is empty"),
    ],
)
def test_a_mistake_in_the_file_of_rates_is_one_line(text: str, words: str, project: Path) -> None:
    with pytest.raises(StudyError) as caught:
        tuned(project, text)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_replications_of_the_tuning_stand_in_no_table(project: Path) -> None:
    with pytest.raises(StudyError, match="seeds: 101 is one of those that the rates in scales/smoke.rates.yaml"):
        tuned(project, "rows: {pca: 2}", seeds="0,101")


def test_another_study_has_a_file_of_its_own(project: Path) -> None:
    tuned(project, "rows: {ldae: 2}")
    shutil.copy(ROOT / "tests/study.yaml", project / "three.yaml")
    (project / "scales/smoke.three.rates.yaml").write_text("rows: {predict_clean: 4}")
    assert scale_names(project / "scales") == ["smoke"]
    study = Study.load(project, {"study": str(project / "three.yaml")})
    assert [factor.value for factor in study.factors.values()] == [1, 4, 4]


def outdated(project: Path, before: str, after: str) -> set[str]:
    """The places of results that are outdated once the file of rates is edited; views are not among them."""
    jobs = Graph(tuned(project, before), project).jobs
    graph = Graph(tuned(project, after), project)
    state = State(graph, {job: {"lineage": jobs[place].lineage} for place, job in graph.jobs.items()})
    return {place for place, job in graph.jobs.items() if not job.is_view and state.outdated(job) is not None}


@pytest.mark.parametrize(
    ("before", "after", "rows"),
    [
        ("rows: {predict_clean: 1, single_level: 1}", "rows: {predict_clean: 2, single_level: 1}", {"predict_clean"}),
        ("rows: {pca: 2}", "rows: {pca: 2, single_level: 0.5}", {"single_level"}),
        ("rows: {pca: 2, predict_clean: 1}", "rows: {pca: 4, predict_clean: 1}", {"pca"}),
        # single_level inherits it
        ("rows: {predict_clean: 1}", "rows: {predict_clean: 2}", {"predict_clean", "single_level"}),
        ("rows: {pca: 2}", "rows: {pca: {factor: 2, tried: {1: 30.5, 2: 31}, commit: abc}}", set()),
    ],
)
def test_an_edited_factor_makes_that_rows_training_run_again_and_what_follows_from_it(
    before: str, after: str, rows: set[str], project: Path
) -> None:
    shutil.copy(ROOT / "tests/study.yaml", project / "config.yaml")
    places = {f"{stage}/{row}/seed0" for stage in ("pretrain", "probe") for row in rows}
    assert outdated(project, before, after) == places


def test_an_edited_factor_of_a_tokenizer_makes_its_fit_and_its_rows_run_again(project: Path) -> None:
    changed = outdated(project, "tokenizers: {conv-16: 1}", "tokenizers: {conv-16: 2}")
    assert {place for place in changed if place.startswith("tokenizers/")} == {"tokenizers/conv-16/seed0"}
    rows = {place.split("/")[1] for place in changed if place.startswith("pretrain/")}
    assert rows == {"no_adversarial", "conv_vae"}
