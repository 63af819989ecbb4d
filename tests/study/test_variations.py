"""Variations: some rows with the same further change, and the claims under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from rows import ROOT

from ldae.overview.state import State
from ldae.runtime.files import write_json
from ldae.study.checking import StudyError
from ldae.study.graph import Graph, Job, options
from ldae.study.record import digest_read
from ldae.study.study import Study

STUDY = yaml.safe_load((ROOT / "tests/study.yaml").read_text())
WHITENED = {
    "text": "whitened",
    "rows": ["pca", "predict_clean"],
    "set": {"tokenizer.scale": "dimension", "objective.units": "whitened"},
}
LONGER = {"text": "{value} x the steps", "rows": ["pca", "predict_clean"], "over": {"recipe.length": [0.5, 2]}}


def load(folder: Path, variations: dict[str, Any], **changes: Any) -> Study:
    (folder / "varied.yaml").write_text(yaml.safe_dump(STUDY | {"variations": variations} | changes, sort_keys=False))
    return Study.load(ROOT, {"study": str(folder / "varied.yaml")})


def test_each_row_has_the_further_change_and_its_own_name(tmp_path: Path) -> None:
    study = load(tmp_path, {"whitened": WHITENED, "longer": LONGER})
    assert set(study.variants) - set(STUDY["variants"]) == {
        *("pca_whitened", "predict_clean_whitened"),
        *("pca_longer0p5", "predict_clean_longer0p5", "pca_longer2", "predict_clean_longer2"),
    }
    row = study.variants["predict_clean_longer0p5"]
    assert row.spec.changes(study.variants["predict_clean"].spec) == {"recipe.length": (1.0, 0.5)}
    assert (row.parent, row.label) == ("predict_clean", "+ predict clean data, 0.5 x the steps")


def test_a_key_without_effect_on_a_row_is_left_out_for_that_row() -> None:
    """Units are those of residuals on images: with latent output there are none."""
    study = Study.load(ROOT, {})
    for name, units in (("pca", "pixel"), ("image_input", "pixel"), ("image_output", "whitened"), ("ldae", "whitened")):
        spec = study.variants[f"{name}_scaling"].spec
        assert (spec.tokenizer.scale, spec.objective.units) == ("dimension", units)


def test_a_row_of_a_variation_that_equals_another_row_is_that_row(tmp_path: Path) -> None:
    existing = {"from": "pca", "label": "whitened PCA", "set": {"tokenizer.scale": "dimension"}}
    study = load(tmp_path, {"whitened": WHITENED}, variants=STUDY["variants"] | {"mine": existing})
    (setting,) = study.variations["whitened"]
    assert setting.rows == {"pca": "mine", "predict_clean": "predict_clean_whitened"}
    assert "pca_whitened" not in study.variants


def test_rows_of_a_variation_are_computed_only_where_they_are_asked_for(tmp_path: Path) -> None:
    graph = Graph(load(tmp_path, {"whitened": WHITENED}))
    assert not [job for job in graph.all_jobs_for(["main", "all"]) if "whitened" in job.place]
    places = {job.place for job in graph.all_jobs_for(["claims_whitened"])}
    assert {"tables/claims_whitened", "probe/pca_whitened/seed0", "probe/pca/seed0"} <= places
    assert "probe/single_level/seed0" not in places
    graph = Graph(load(tmp_path, {"whitened": WHITENED | {"target": "all"}}))
    assert "tables/claims_whitened" in {job.place for job in graph.all_jobs_for(["all"])}
    assert "tables/claims_whitened" not in {job.place for job in graph.all_jobs_for(["main"])}


def test_the_rows_that_a_variation_adds_have_its_seeds(tmp_path: Path) -> None:
    """Not so those that it changes; and a study with none of its seeds can still be run."""
    study = load(tmp_path, {"longer": LONGER | {"seeds": "0-1"}}, seeds="0-3")
    assert study.seeds["pca_longer2"] == (0, 1)
    assert study.seeds["pca"] == (0, 1, 2, 3)
    assert load(tmp_path, {"longer": LONGER | {"seeds": "0-1"}}, seeds=[8]).seeds["pca_longer2"] == (8,)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"rows": ["pca", "predict_claen"]},
            "variations.v.rows: no row or sweep 'predict_claen' (did you mean 'predict_",
        ),
        ({"rows": ["pca"]}, "variations.v.rows: no claim has all its rows among them; add the others"),
        ({"set": {"noise.schedule": "gamma2"}}, "variations.v: leaves row 'pca' as it is; take the row out"),
        ({"set": {"objective.units": "whitened"}}, "variations.v: leaves row 'pca' as it is; take the row out"),
        ({"set": {}}, "variations.v.set: says what changes, and so does over; give at least one of the two"),
        ({"set": {"tokenizer.scael": "dimension"}}, "variations.v.set: unknown key 'tokenizer.scael'"),
        ({"set": {}, "over": {"recipe.length": [1, 2]}}, "variations.v: recipe.length: 1 leaves row 'pca' as it is"),
        ({"text": "{size}"}, ""),
    ],
)
def test_a_mistake_in_a_variation_is_told_in_one_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    if "text" in change:
        change, said = {"set": {}, "over": {"recipe.length": [2]}} | change, "variations.v.text: '{size}' cannot take 2"
    with pytest.raises(StudyError) as caught:
        load(tmp_path, {"v": WHITENED | change})
    assert str(caught.value).startswith(f"varied.yaml: {said}")
    assert len(str(caught.value).splitlines()) == 1


def test_names_that_are_taken_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="variations.pca: a row or sweep has this name already"):
        load(tmp_path, {"pca": WHITENED})
    sweep = {"from": "pca", "label": "d = {value}", "over": {"tokenizer.dim": [8]}}
    with pytest.raises(StudyError, match="row 'pca' would be named 'pca_d', which is taken"):
        load(tmp_path, {"d": WHITENED}, sweeps={"pca_d": sweep})
    table = {"title": "Mine", "rows": ["pca"]}
    with pytest.raises(StudyError, match="its table would be 'claims_v', which is taken"):
        load(tmp_path, {"v": WHITENED}, tables=STUDY["tables"] | {"claims_v": table})


def test_a_figure_needs_a_variation_over_numbers(tmp_path: Path) -> None:
    def figure(variation: str) -> dict[str, Any]:
        return {"mine": {"kind": "variation", "title": "Mine", "variation": variation}}

    with pytest.raises(StudyError, match="figures.mine.variation: 'v' has no numbers to draw against"):
        load(tmp_path, {"v": WHITENED}, figures=figure("v"))
    with pytest.raises(StudyError, match=r"figures.mine.variation: none is called 'vv' \(did you mean 'v'\?\)"):
        load(tmp_path, {"v": LONGER}, figures=figure("vv"))


def finish(graph: Graph, job: Job) -> None:
    """Leaves the files and the record of a view, as its command would."""
    for path in job.files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    shown = {view.place: digest_read(record, stage="report") for view in job.shows if (record := read(graph, view))}
    write_json(job.record, {"lineage": job.lineage, "inputs": shown})


def read(graph: Graph, job: Job) -> dict[str, Any]:
    return State(graph).matching_record(job)


def test_the_page_is_written_again_once_a_variation_was_judged_and_never_asks_for_it(tmp_path: Path) -> None:
    graph = Graph(load(tmp_path, {"whitened": WHITENED}), tmp_path)
    page, view = graph.jobs["report"], graph.jobs["tables/claims_whitened"]
    for job in graph.all_jobs_for(["report"]):
        finish(graph, job)
    assert State(graph).outdated(page) is None
    assert view not in State(graph).to_run(["report"])
    finish(graph, view)
    assert "does not show variation claims_whitened as it is now" in str(State(graph).outdated(page))
    finish(graph, page)
    assert State(graph).outdated(page) is None


def test_a_command_of_a_variation_names_the_probes_with_and_without_it(tmp_path: Path) -> None:
    graph = Graph(load(tmp_path, {"whitened": WHITENED}))
    words = options(graph, graph.jobs["tables/claims_whitened"])
    for row in ("pca", "pca_whitened", "predict_clean", "predict_clean_whitened"):
        assert any(f"probe/{row}/seed0/" in word for word in words)
    assert words[-1].endswith("tables/claims_whitened")
